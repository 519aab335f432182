#include "launch/run_config.h"

#include <algorithm>
#include <optional>

#include "core/config/reader.h"
#include "core/config/writer.h"
#include "core/error.h"
#include "core/text.h"
#include "launch/densify.h"
#include "launch/tee_visitor.h"

namespace strata {

ModelOptions RunConfig::model_options() const {
  ModelOptions options;
  options.loss.label_smoothing = train.label_smoothing;
  options.loss.z_loss = train.z_loss;
  options.head_chunk_tokens = train.head_chunk_tokens;
  return options;
}

void RunConfig::visit_before_model(ConfigVisitor& v) {
  visit_section(v, "run", "The run and its directory.", run);
  visit_section(v, "data", "What is read, and how text becomes token ids.", data);
  visit_section(v, "train", "Length, batch and numbers of the training.", train);
}

void RunConfig::visit_model(ConfigVisitor& v, bool with_products) {
  const ModelRegistry registry = model_registry(model_options(), families);
  v.begin_section("model", "The network; other keys are those of the family's config.json.");
  v.field("name", model_name, one_of(registry.names()), "model family");
  if (with_products && registry.contains(model_name)) {
    auto made = registry.make(model_name, v);
    made->freeze(train.freeze);
    model = std::move(made);
  }
  v.end_section();
}

void RunConfig::visit_after_model(ConfigVisitor& v, bool with_products) {
  const RuleRegistry rules = rule_registry();
  v.begin_section("optim", "The update rule; other keys are the rule's own.");
  v.field("name", optim.name, one_of(rules.names()), "update rule");
  optim.visit(v);
  if (with_products && rules.contains(optim.name)) rules.make(optim.name, v);
  v.end_section();
  visit_section(v, "sched", "Learning rate over the steps.", sched);
  visit_section(v, "plan",
                "How ranks share the work: the same in every layer, or as a plan file says.", plan);
  visit_section(v, "ckpt", "Saving and resuming.", ckpt);
  visit_section(v, "eval", "Loss on validation data.", eval);
  visit_section(v, "sample", "Text from the model.", sample);
  visit_section(v, "runtime", "Process, device and threads.", runtime);
  visit_section(v, "comm", "Checks of the communication.", comm);
  visit_section(v, "log", "What is printed and recorded.", log);
  visit_section(v, "fault", "Rehearsing failures.", fault);
}

void RunConfig::visit(ConfigVisitor& v) {
  visit_before_model(v);
  visit_model(v);
  visit_after_model(v);
}

void RunConfig::visit_settings(ConfigVisitor& v) {
  visit_before_model(v);
  visit_model(v, false);
  visit_after_model(v, false);
}

// One reading of a run file; the vocabulary is settled between the data and the model.
class RunConfigReader {
 public:
  explicit RunConfigReader(const RunInput& input) : input_(input), writer_(ConfigFormat::Ini) {
    config_.families = input.families;
  }

  RunConfig read() {
    if (!input_.path.empty()) reader_.add_file(input_.path);
    for (const auto& [key, value] : input_.overrides) reader_.add_override(key, value);
    TeeVisitor tee(reader_, writer_.visitor());
    config_.visit_before_model(tee);
    settle_vocabulary();
    config_.visit_model(tee);
    // The value a field holds is its default: short runs warm up for a tenth.
    config_.sched.warmup = std::min(config_.sched.warmup, config_.train.steps / 10);
    config_.visit_after_model(tee);
    check_across_sections();
    finish();
    config_.ini = writer_.text();
    return std::move(config_);
  }

 private:
  // The model's vocabulary is the data's: taken from there when not given, compared when it is.
  void settle_vocabulary() {
    constexpr const char* kKey = "model.vocab_size";
    const std::string* given = reader_.peek(kKey);
    int64_t wanted = 0;
    if (given != nullptr && (!parse_integer(*given, wanted) || wanted < 1))
      return;  // the model's visit says so
    const int64_t of_data = config_.data.vocab_size;
    if (of_data == 0) config_.data.vocab_size = wanted;
    if (given != nullptr && input_.data == RunInput::Data::ForVocabulary) return;
    if (reader_.has_problems()) {
      // The data cannot be trusted to be what was meant. finish() throws, so this value is never
      // used.
      if (given == nullptr) reader_.add_override(kKey, "1");
      return;
    }
    try {
      config_.train_data = make_data_source(config_.data, Split::Train, config_.data_seed());
    } catch (const DataError& error) {
      data_error_ = error;
    } catch (const ConfigError& error) {
      for (const std::string& problem : error.problems()) others_.push_back(problem);
    }
    if (given == nullptr) {
      reader_.add_override(kKey, config_.train_data ? cat(config_.train_data->vocab_size()) : "1");
    } else if (config_.train_data && config_.train_data->vocab_size() > wanted) {
      reader_.problem(kKey, cat(wanted),
                      cat("at least ", config_.train_data->vocab_size(), " (ids of the data)"),
                      " Leave the key out to take it from the data");
    }
    if (config_.train_data) config_.data.vocab_size = config_.train_data->vocab_size();
  }

  void check_across_sections() {
    const int64_t length = config_.data.sequence_length;
    if (config_.model && config_.model->max_positions() > 0 &&
        length > config_.model->max_positions()) {
      reader_.problem(
          "data.sequence_length", cat(length),
          cat("at most ", config_.model->max_positions(), " (the model's longest context)"));
    }
    check_frozen();
    if (config_.model && densify_step(config_) >= 0) {
      try {
        dense_model(config_);
      } catch (const ConfigError& error) {
        for (const std::string& problem : error.problems()) others_.push_back(problem);
      }
    }
    if (config_.plan.file != "none" && config_.plan.file != "auto") {
      try {
        config_.plan.read_file();
      } catch (const ConfigError& error) {
        for (const std::string& problem : error.problems()) others_.push_back(problem);
      }
    } else if (config_.train.batch % config_.plan.microbatches != 0) {
      reader_.problem("plan.microbatches", cat(config_.plan.microbatches),
                      cat("divisors of train.batch = ", config_.train.batch));
    }
    if (config_.sched.warmup > config_.train.steps && config_.sched.name != "inverse-sqrt") {
      reader_.problem("sched.warmup", cat(config_.sched.warmup),
                      cat("at most train.steps = ", config_.train.steps));
    }
    if (config_.sample.interval > 0 && config_.model && !config_.model->causal()) {
      reader_.problem(
          "sample.interval", cat(config_.sample.interval),
          cat("0 (", config_.model_name, " is bidirectional and cannot continue a text)"));
    }
    if (config_.runtime.backend == "nccl" && config_.runtime.device == "cpu") {
      reader_.problem("runtime.backend", "nccl", "auto, mpi, self while runtime.device = cpu");
    }
  }

  void check_frozen() {
    constexpr const char* kKey = "train.freeze";
    const std::vector<std::string>& globs = config_.train.freeze;
    if (globs.empty() || !config_.model || reader_.has_problems()) return;
    std::vector<std::string> names;
    bool trained = false;
    try {
      for (const ParamMeta& meta : parameter_metas(*config_.model)) {
        names.push_back(meta.name);
        trained = trained || meta.trainable;
      }
    } catch (const ConfigError&) {
      return;  // sizes that make no model: whoever builds it says so
    }
    for (const std::string& glob : globs) {
      const bool found = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
        return glob_match(glob, name);
      });
      if (!found)
        reader_.problem(kKey, cat('"', glob, '"'),
                        cat("names of parameters or globs of them, as ", names.front(), " or *.",
                            names.back().substr(names.back().rfind('.') + 1)),
                        did_you_mean(glob, names));
    }
    if (!trained) reader_.problem(kKey, join(globs), "globs that leave something to train");
  }

  // Throws when anything was wrong, configuration before data.
  void finish() {
    try {
      reader_.finish();
    } catch (const ConfigError& error) {
      others_.insert(others_.begin(), error.problems().begin(), error.problems().end());
    }
    if (!others_.empty()) throw ConfigError(others_);
    if (data_error_) throw *data_error_;
  }

  const RunInput& input_;
  ConfigReader reader_;
  ConfigWriter writer_;
  RunConfig config_;
  std::optional<DataError> data_error_;
  std::vector<std::string> others_;  // complete sentences about the data and the plan file
};

RunConfig read_run_config(const RunInput& input) { return RunConfigReader(input).read(); }

std::shared_ptr<const RuleSet> make_rules(const RunConfig& config) {
  ConfigReader reader;
  reader.add_ini(config.ini, "config.ini");
  reader.begin_section("optim", "");
  auto rule = rule_registry().make(config.optim.name, reader);
  reader.end_section();
  STRATA_CHECK(!reader.has_problems(), "the effective configuration does not read back");
  return std::make_shared<const RuleSet>(std::move(rule), make_adamw(config.optim.rules.aux),
                                         config.optim.rules, config.optim.lr);
}

OptimizerOptions optimizer_options(const RunConfig& config) {
  const OptimSection& o = config.optim;
  const bool companion =
      o.clip_scope == "companion" || (o.clip_scope == "auto" && o.name == "muon");
  return {.max_grad_norm = o.max_grad_norm,
          .clip = companion ? ClipScope::Companion : ClipScope::All,
          .audit = o.audit,
          .exact_norm = config.runtime.invariant()};
}

}  // namespace strata
