// strata ckpt compress --welore: a model whose linears are replaced by thin factors where their
// spectra allow it.
#include <ATen/TensorOperators.h>

#include <cmath>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/config/reader.h"
#include "core/config/writer.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/ops/low_rank.h"
#include "core/text.h"
#include "launch/cmd_ckpt.h"
#include "launch/command_line.h"
#include "launch/model_folder.h"
#include "launch/tee_visitor.h"
#include "launch/welore.h"
#include "models/parts/linear_parts.h"
#include "parallel/engine/converted_weights.h"

namespace strata {
namespace cmd_compress_detail {

constexpr const char* kWeight = ".weight";
constexpr const char* kFirstFactor = ".lowrank_a";

double number_of(const CommandLine& line, const std::string& option, double otherwise,
                 const std::string& allowed, bool (*good)(double)) {
  const auto text = line.value(option);
  if (!text) return otherwise;
  double number = 0;
  if (!parse_number(*text, number) || !good(number))
    throw ConfigError("--" + option, cat('"', *text, '"'), allowed);
  return number;
}

bool below_one(double x) { return x >= 0 && x < 1; }
bool up_to_one(double x) { return x >= 0 && x <= 1; }

nlohmann::ordered_json with_ranks(const ModelSpec& model, const std::vector<std::string>& ranks) {
  auto j = nlohmann::ordered_json::parse(model.foreign_config());
  if (j.contains("structured_linear"))
    throw ConfigError("FROM", "a model of structured linears", "one of dense linears",
                      " strata ckpt convert FROM DENSE --linear=dense makes that");
  if (ranks.empty()) return j;
  j["structured_linear"] = "LowRankLinear";
  j["linear_ranks"] = ranks;
  return j;
}

// A linear that can be of low rank: the parameter, its block and its name there.
struct Candidate {
  ParamMeta meta;
  std::string name;  // "0.self_attn.q_proj"
};

// Every matrix of the blocks that the family can have in this form, found by asking it.
std::vector<Candidate> candidates(const ModelSpec& model) {
  std::vector<Candidate> out;
  std::map<std::string, std::set<std::string>> made;  // name within a block -> parameters
  const std::vector<ParamMeta> metas = parameter_metas(model);
  for (int layer = 1; layer + 1 < model.layer_count(); ++layer) {
    const std::string prefix = model.parameter_prefix(layer);
    for (const ParamMeta& meta : metas) {
      const bool matrix = meta.kind == ParamKind::Matrix && meta.logical.size() == 2;
      if (!matrix || !starts_with(meta.name, prefix) || !ends_with(meta.name, kWeight)) continue;
      const std::string linear =
          meta.name.substr(0, meta.name.size() - std::string(kWeight).size());
      const std::string name = linear.substr(prefix.size());
      if (made.count(name) == 0) {
        std::set<std::string>& names = made[name];
        try {
          const auto config = with_ranks(model, {cat("*.", name, "=1")});
          for (const ParamMeta& m : parameter_metas(*make_model_from_json(config.dump(), "TO")))
            names.insert(m.name);
        } catch (const ConfigError&) {
          // Not a linear of this family.
        }
      }
      if (made[name].count(linear + kFirstFactor) > 0)
        out.push_back({meta, cat(layer - 1, ".", name)});
    }
  }
  return out;
}

std::vector<Spectrum> spectra_of(const std::vector<Candidate>& linears,
                                 const WeightSource& weights) {
  std::vector<Spectrum> out;
  for (const Candidate& linear : linears) {
    Parameter p;
    p.meta = linear.meta;
    const Shape& shape = linear.meta.logical;
    const Tensor w = weights.read(p, {Shape(shape.size(), 0), shape}, at::kFloat);
    out.push_back({linear.name, shape[0], shape[1], ops::singular_values(w)});
    if (!std::isfinite(out.back().values.front()))
      throw CheckpointError(cat(linear.meta.name, " holds values that are not finite."));
  }
  return out;
}

// The [model] section of a run file that makes the model of a config.json.
std::string model_section(const std::string& config_json) {
  ConfigWriter writer(ConfigFormat::Ini);
  visit_config_json(config_json, "TO", [&](const std::string& family, ConfigVisitor& reader) {
    writer.visitor().begin_section("model", "");
    std::string name = family;
    writer.visitor().field("name", name, any_text(), "");
    TeeVisitor both(reader, writer.visitor());
    model_registry().make(family, both);
    writer.visitor().end_section();
  });
  return writer.text();
}

// [data] of the run that the weights come from, or what to fill in.
std::string data_section(const ModelFolder& from) {
  if (from.checkpoint.empty()) return "[data]\n# path = TEXT\nsequence_length = 1024\n";
  std::string out;
  bool inside = false;
  for (const std::string& line : split(io::read_text(from.checkpoint / "config.ini"), '\n')) {
    if (starts_with(line, "[")) inside = line == "[data]";
    if (inside && !line.empty()) out += line + "\n";
  }
  return out;
}

// A run file that trains the factors and the norms, as the authors do.
std::string fine_tuning(const ModelFolder& from, const std::filesystem::path& to,
                        const std::string& config_json, const ModelSpec& model) {
  std::vector<std::string> frozen;
  for (const ParamMeta& meta : parameter_metas(model)) {
    const bool factor = meta.name.find(".lowrank_") != std::string::npos;
    const bool matrix = meta.kind == ParamKind::Matrix || meta.kind == ParamKind::Embedding ||
                        meta.kind == ParamKind::Head;
    if (matrix && !factor) frozen.push_back(meta.name);
  }
  std::string out = "# Trains the factors and the norms; all other matrices stay as they are.\n";
  out += cat("[run]\nname = welore\n\n", data_section(from), "\n");
  out += cat("[train]\nsteps = 10000\nbatch = 4\n");
  if (!frozen.empty()) out += cat("freeze = ", join(frozen), "\n");
  out += "\n" + model_section(config_json);
  out += "\n[optim]\nname = adamw\nlr = 5e-5\nbeta2 = 0.999\neps = 1e-8\nweight_decay = 0\n";
  out += "\n[sched]\nname = cosine\nwarmup = 500\nmin_ratio = 0.1\n";
  return out +
         cat("\n[ckpt]\ninit = ", std::filesystem::absolute(to).lexically_normal().string(), "\n");
}

}  // namespace cmd_compress_detail

int ckpt_compress(const Arguments& arguments) {
  using namespace cmd_compress_detail;
  CommandLine line(
      "ckpt compress", "FROM TO --welore [--ratio R | --tau T] [--target ranks|parameters]",
      "Replaces linears of the blocks by two thin factors each, of ranks that their singular "
      "values\n"
      "ask for (WeLore). FROM is a checkpoint, a run, or a folder of the family's own files with\n"
      "dense linears; the folder TO gets config.json, model.safetensors, the table of ranks\n"
      "(welore.txt, welore.json), the spectra with their cuts (welore.svg), and finetune.ini, a "
      "run\n"
      "file that trains the factors and the norms.");
  line.positional("folder", 2, 2);
  line.flag("welore", "the method; there is no other");
  line.option("ratio", "R",
              "part of the singular values, or of the elements, to save; default 0.5");
  line.option("tau", "T", "the threshold itself, on normalised singular values");
  line.option("target", "WHAT", "what --ratio is a part of: ranks (default) or parameters");
  line.option("min-ratio", "X",
              "a linear of which no more than this part of the values is pruned stays dense; "
              "default auto: where factors would be larger");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  if (!line.has("welore")) throw ConfigError("strata ckpt compress", "no method", "--welore");
  const std::string target = line.value("target").value_or("ranks");
  if (target != "ranks" && target != "parameters")
    throw ConfigError("--target", cat('"', target, '"'), "ranks, parameters");
  if (line.has("tau") && (line.has("ratio") || line.has("target")))
    throw ConfigError("--tau", "given", "nothing beside --ratio or --target");
  const double ratio = number_of(line, "ratio", 0.5, "number in [0, 1)", below_one);
  const double given_tau = number_of(line, "tau", 0, "number in [0, 1]", up_to_one);
  MinRatio min_ratio;
  if (line.value("min-ratio").value_or("auto") != "auto")
    min_ratio = number_of(line, "min-ratio", 0, "auto, number in [0, 1)", below_one);
  const std::filesystem::path to = line.words()[1];
  if (std::filesystem::exists(to / "model.safetensors"))
    throw ConfigError("TO", to.string(), "a folder without model.safetensors");

  const ModelFolder from = open_model_folder(line.words()[0], arguments.families);
  with_ranks(*from.model, {});  // throws where linears are structured already
  const std::vector<Candidate> linears = candidates(*from.model);
  if (linears.empty())
    throw ConfigError("FROM", cat("a model of the family ", from.model->family()),
                      "one with blocks whose linears can be of low rank");
  const std::vector<Spectrum> spectra = spectra_of(linears, *from.weights);
  const double tau = line.has("tau")     ? given_tau
                     : target == "ranks" ? threshold_for_ranks(spectra, ratio)
                                         : threshold_for_parameters(spectra, ratio, min_ratio);
  const std::vector<WeloreRank> ranks = select_ranks(spectra, tau, min_ratio);

  std::vector<std::string> entries;
  for (const WeloreRank& rank : ranks) {
    if (rank.low_rank) entries.push_back(cat(rank.name, "=", rank.kept));
  }
  const auto config = with_ranks(*from.model, entries);
  const std::shared_ptr<const ModelSpec> model = make_model_from_json(config.dump(), "TO");
  const auto converted = make_converted_weights(*from.weights, *from.model);
  const size_t written = write_model_folder(to, config, *model, *converted);
  const std::string table = welore_text(ranks, tau);
  io::write_text_atomic(to / "welore.txt", table);
  io::write_text_atomic(to / "welore.json", welore_json(ranks, tau, min_ratio));
  io::write_text_atomic(to / "welore.svg", welore_svg(spectra, ranks));
  io::write_text_atomic(to / "finetune.ini", fine_tuning(from, to, config.dump(), *model));
  std::cout << table << "\n"
            << cat(written, " tensors in ", (to / "model.safetensors").string(), "; strata train ",
                   (to / "finetune.ini").string(), " goes on from them\n");
  return 0;
}

}  // namespace strata
