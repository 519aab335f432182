#include "launch/run_checkpoints.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "launch/failure.h"
#include "launch/run_plan.h"
#include "parallel/engine/frozen_weights.h"
#include "parallel/engine/weight_source.h"

namespace strata {
namespace run_checkpoints_detail {

// Weights of a checkpoint where name and shape fit, initial values elsewhere (ckpt.load = partial).
class PartialWeights final : public WeightSource {
 public:
  PartialWeights(std::shared_ptr<const CheckpointReader> reader, uint64_t seed)
      : reader_(std::move(reader)),
        stored_(make_checkpoint_weights(reader_)),
        initial_(make_initial_weights(seed)) {}
  bool has(const ParamMeta& meta) const {
    const auto found = reader_->tensors().find("/model/" + meta.name);
    return found != reader_->tensors().end() && found->second.shape == meta.logical;
  }
  Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const override {
    return (has(parameter.meta) ? *stored_ : *initial_).read(parameter, box, dtype);
  }
  std::string description() const override {
    return cat(stored_->description(), ", as far as it fits");
  }

 private:
  std::shared_ptr<const CheckpointReader> reader_;
  std::unique_ptr<WeightSource> stored_, initial_;
};

int64_t integer_of(const CheckpointState& state, const std::string& key, int64_t otherwise) {
  const auto found = state.find(key);
  if (found == state.end()) return otherwise;
  const auto json = nlohmann::json::parse(found->second, nullptr, false);
  return json.is_number_integer() ? json.get<int64_t>() : otherwise;
}

std::string text_of(const CheckpointState& state, const std::string& key) {
  const auto found = state.find(key);
  if (found == state.end()) return "";
  const auto json = nlohmann::json::parse(found->second, nullptr, false);
  return json.is_string() ? json.get<std::string>() : "";
}

std::vector<int64_t> integers_of(const CheckpointState& state, const std::string& key) {
  std::vector<int64_t> out;
  const auto found = state.find(key);
  if (found == state.end()) return out;
  const auto json = nlohmann::json::parse(found->second, nullptr, false);
  if (!json.is_array()) return out;
  for (const auto& entry : json) {
    if (entry.is_number_integer()) out.push_back(entry.get<int64_t>());
  }
  return out;
}

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

}  // namespace run_checkpoints_detail

std::vector<std::string> model_differences(const std::vector<ParamMeta>& model,
                                           const std::map<std::string, TensorInfo>& stored) {
  constexpr std::string_view kPrefix = "/model/";
  std::vector<std::string> out, wanted, unexpected;
  std::map<std::string, bool> known;
  for (const auto& [path, info] : stored) {
    if (starts_with(path, kPrefix)) known[path.substr(kPrefix.size())] = false;
  }
  std::vector<std::string> names;
  for (const auto& [name, seen] : known) names.push_back(name);
  for (const ParamMeta& meta : model) {
    const auto found = known.find(meta.name);
    if (found == known.end()) {
      out.push_back(cat("missing     ", meta.name, " ", shape_text(meta.logical),
                        did_you_mean(meta.name, names)));
      continue;
    }
    found->second = true;
    const Shape& shape = stored.at(cat(kPrefix, meta.name)).shape;
    if (shape != meta.logical) {
      out.push_back(cat("shape       ", meta.name, ": checkpoint has ", shape_text(shape),
                        ", model wants ", shape_text(meta.logical)));
    }
  }
  for (const auto& [name, seen] : known) {
    if (!seen)
      out.push_back(
          cat("unexpected  ", name, " ", shape_text(stored.at(cat(kPrefix, name)).shape)));
  }
  return out;
}

std::string fingerprint_of(const ModelSpec& model) {
  std::vector<FingerprintEntry> entries;
  for (const ParamMeta& meta : parameter_metas(model)) {
    entries.push_back({meta.name, meta.logical, meta.shard.segments});
  }
  return model_fingerprint(std::move(entries));
}

RunCheckpoints::RunCheckpoints(const RunConfig& config, Runtime& runtime)
    : config_(config),
      runtime_(runtime),
      root_(config.ckpt.dir.empty() ? std::filesystem::path(config.run.directory()) / "checkpoints"
                                    : std::filesystem::path(config.ckpt.dir)) {}

std::filesystem::path RunCheckpoints::find() {
  const std::string& resume = config_.ckpt.resume;
  if (resume == "none") return {};
  std::string found;
  together(runtime_.job(), [&] {
    if (!runtime_.first()) return;
    if (resume != "auto") {
      const std::string why = why_invalid(resume);
      if (!why.empty()) throw CheckpointError(cat("ckpt.resume: ", resume, ": ", why));
      found = resume;
    } else if (std::filesystem::exists(root_)) {
      const auto latest = find_latest(root_, [](const std::string& text) { log::warn(text); });
      if (latest) found = latest->string();
    }
  });
  runtime_.job().broadcast_bytes(found, 0);
  return found;
}

RunPosition RunCheckpoints::start(ParallelManager& model, DistributedOptimizer& optimizer,
                                  const std::string& data_fingerprint) {
  const bool automatic = config_.ckpt.resume == "auto";
  together(runtime_.job(), [&] {
    if (!runtime_.first()) return;
    std::error_code error;
    std::filesystem::create_directories(root_, error);
    if (error) {
      throw StorageError(cat(root_.string(), ": cannot be created: ", error.message(),
                             ". Choose a writable ckpt.dir or run.dir."));
    }
    remove_leftovers(root_, [](const std::string& text) { log::warn(text); });
  });
  for (int64_t passed_over = 0;; ++passed_over) {
    const std::filesystem::path directory = find();
    if (directory.empty()) {
      check_no_newer(-1);
      return start_fresh(model, optimizer);
    }
    if (config_.ckpt.load != "strict") {
      check_no_newer(-1);
      return start_warm(directory, model, optimizer);
    }
    try {
      if (const auto position = resume(directory, model, optimizer, data_fingerprint))
        return *position;
    } catch (const AgreedError& error) {
      if (!automatic || passed_over >= config_.ckpt.fallbacks || error.exit_code() != 4) throw;
      log::warn(directory.filename().string(), " cannot be loaded: ", error.what(),
                " Trying an older one.");
      set_aside(directory);
    }
  }
}

std::optional<RunPosition> RunCheckpoints::resume(const std::filesystem::path& directory,
                                                  ParallelManager& model,
                                                  DistributedOptimizer& optimizer,
                                                  const std::string& data_fingerprint) {
  using namespace run_checkpoints_detail;
  std::shared_ptr<const CheckpointReader> reader;
  together(runtime_.job(), [&] { reader = std::make_shared<CheckpointReader>(directory); });
  // What does not fit is the user's to settle; an older checkpoint would not fit either.
  same_everywhere([&] {
    check_resumable(*reader, model.spec(), data_fingerprint);
    return 0;
  });
  check_no_newer(reader->step());
  const std::string& what = config_.ckpt.reset_optim;
  const OptimizerReset reset = what == "all"      ? OptimizerReset::All
                               : what == "matrix" ? OptimizerReset::Matrix
                                                  : OptimizerReset::None;
  together(runtime_.job(), [&] {
    optimizer.load(*reader, reset);
    load_frozen(model, *make_checkpoint_weights(reader));
  });
  model.weights_changed();
  RunPosition position;
  position.step = reader->step();
  position.samples = reader->samples();
  position.tokens = reader->tokens();
  position.updates =
      reset == OptimizerReset::All ? 0 : integer_of(reader->state(), "updates", position.step);
  position.skipped = integers_of(reader->state(), "skipped");
  newest_ = parent_ = directory.filename().string();
  newest_step_ = position.step;
  log::info("resumed from ", directory.string(), " at step ", position.step);
  return position;
}

void RunCheckpoints::check_resumable(const CheckpointReader& reader, const ModelSpec& model,
                                     const std::string& data_fingerprint) const {
  using namespace run_checkpoints_detail;
  constexpr const char* kHelp =
      " ckpt.load = weights-only or partial with ckpt.resume = PATH starts anew from its weights.";
  if (reader.model_fingerprint() != fingerprint_of(model)) {
    const std::vector<std::string> differences =
        model_differences(parameter_metas(model), reader.tensors());
    throw ConfigError({cat(
        "The checkpoint of step ", reader.step(), " is of another model:\n  ",
        differences.empty() ? "its packed tensors have other parts" : join(differences, "\n  "),
        "\n ", kHelp)});
  }
  const std::string rule = text_of(reader.state(), "optim");
  if (!rule.empty() && rule != config_.optim.name && config_.ckpt.reset_optim != "all") {
    throw ConfigError("optim.name", cat('"', config_.optim.name, '"'),
                      cat(rule, ", which wrote the checkpoint of step ", reader.step()),
                      " (ckpt.reset_optim = all resumes with fresh optimizer state)");
  }
  const std::string data = text_of(reader.state(), "data_fingerprint");
  if (!data.empty() && !data_fingerprint.empty() && data != data_fingerprint) {
    throw ConfigError({cat("[data]: the checkpoint of step ", reader.step(),
                           " was trained on other data or in another order ", "(fingerprint ", data,
                           ", now ", data_fingerprint, ").", kHelp)});
  }
}

// A run that starts before checkpoints it already has would mix two histories.
void RunCheckpoints::check_no_newer(int64_t step) {
  together(runtime_.job(), [&] {
    if (!runtime_.first() || !std::filesystem::exists(root_)) return;
    const auto latest = find_latest(root_, [](const std::string&) {});
    if (!latest) return;
    const int64_t newest = CheckpointReader(*latest).step();
    if (newest <= step) return;
    throw ConfigError("ckpt.resume", config_.ckpt.resume, "auto",
                      cat(" (", root_.string(), " already holds ", latest->filename().string(),
                          "; give this run another run.dir or move that folder away)"));
  });
}

void RunCheckpoints::set_aside(const std::filesystem::path& directory) {
  together(runtime_.job(), [&] {
    if (runtime_.first()) log::warn("kept as ", quarantine(directory).string());
  });
}

RunPosition RunCheckpoints::start_fresh(ParallelManager& model, DistributedOptimizer& optimizer) {
  std::unique_ptr<WeightSource> source;
  together(runtime_.job(), [&] {
    source = config_.ckpt.init.empty()
                 ? make_initial_weights(static_cast<uint64_t>(config_.train.seed))
                 : make_safetensors_weights(config_.ckpt.init, model.spec());
  });
  model.load_weights(*source);
  optimizer.load_masters(*source);
  log::info("weights: ", source->description());
  return {};
}

RunPosition RunCheckpoints::start_warm(const std::filesystem::path& directory,
                                       ParallelManager& model, DistributedOptimizer& optimizer) {
  using run_checkpoints_detail::PartialWeights;
  std::shared_ptr<const CheckpointReader> reader;
  together(runtime_.job(), [&] { reader = std::make_shared<CheckpointReader>(directory); });
  const std::vector<std::string> differences =
      model_differences(parameter_metas(model.spec()), reader->tensors());
  if (config_.ckpt.load == "weights-only" && !differences.empty()) {
    throw_agreed(
        ConfigError({cat(directory.string(), " is of another model:\n  ", join(differences, "\n  "),
                         "\n  ckpt.load = partial takes what fits.")}));
  }
  const PartialWeights source(reader, static_cast<uint64_t>(config_.train.seed));
  for (const std::string& difference : differences) log::warn("not loaded: ", difference);
  model.load_weights(source);
  optimizer.load_masters(source);
  log::info("weights: ", source.description(), "; optimizer and step start anew");
  parent_ = directory.filename().string();
  return {};
}

bool RunCheckpoints::save(const RunPosition& position, ParallelManager& manager,
                          const DistributedOptimizer& optimizer,
                          const std::string& data_fingerprint) {
  using run_checkpoints_detail::quoted;
  const ModelSpec& model = manager.spec();
  SaveRequest request;
  request.root = root_;
  request.step = position.step;
  request.tokens = position.tokens;
  request.samples = position.samples;
  request.run_id = config_.run.name;
  request.parent = parent_;
  request.model_fingerprint = fingerprint_of(model);
  request.hash = config_.ckpt.hash == "weights";
  request.state = {{"updates", cat(position.updates)},
                   {"skipped", nlohmann::json(position.skipped).dump()},
                   {"loss", nlohmann::json(position.loss).dump()},
                   {"grad_norm", nlohmann::json(position.grad_norm).dump()},
                   {"data_fingerprint", quoted(data_fingerprint)},
                   {"optim", quoted(config_.optim.name)},
                   {"seed", cat(config_.train.seed)},
                   {"dtype", quoted(config_.train.dtype)}};
  if (&model != config_.model.get()) request.state["densified"] = "true";
  for (const SharedParameter& shared : model.shared_parameters()) {
    for (const std::string& alias : shared.aliases) request.aliases[alias] = shared.name;
  }
  std::filesystem::path written;
  try {
    CheckpointWriter writer(runtime_.job(), request);
    optimizer.save(writer);
    save_frozen(manager, writer);
    writer.add_file("config.ini", config_.ini);
    writer.add_file("plan.json", plan_json(manager.plan(), model));
    written = writer.commit();
  } catch (const StorageError& error) {
    ++failures_;
    log::warn("Checkpoint of step ", position.step, " failed (", failures_,
              " in a row, the run ends after ", config_.ckpt.max_failures, "): ", error.what());
    if (failures_ >= config_.ckpt.max_failures) throw_agreed(error);
    return false;
  }
  failures_ = 0;
  newest_ = parent_ = written.filename().string();
  newest_step_ = position.step;
  if (runtime_.first()) {
    try {
      prune(root_, static_cast<int>(config_.ckpt.keep_last), config_.ckpt.keep_every, written,
            [](const std::string& text) { log::debug(text); });
    } catch (const std::exception& error) {
      log::warn("Old checkpoints were not deleted: ", error.what());
    }
  }
  return true;
}

void load_weights_only(const RunConfig& config, Runtime& runtime, ParallelManager& model,
                       const std::filesystem::path& directory) {
  std::unique_ptr<WeightSource> source;
  together(runtime.job(), [&] {
    if (directory.empty()) {
      source = make_safetensors_weights(config.ckpt.init, model.spec());
      return;
    }
    auto reader = std::make_shared<CheckpointReader>(directory);
    const std::vector<std::string> differences =
        model_differences(parameter_metas(model.spec()), reader->tensors());
    if (!differences.empty()) {
      throw ConfigError(
          {cat(directory.string(), " is of another model than the run file describes:\n  ",
               join(differences, "\n  "))});
    }
    source = make_checkpoint_weights(std::move(reader));
  });
  model.load_weights(*source);
  log::info("weights: ", source->description());
}

}  // namespace strata
