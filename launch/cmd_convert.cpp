// strata ckpt convert: a checkpoint or a folder of the family's own files to such a folder, the
// linears in another form if wanted.
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "launch/cmd_ckpt.h"
#include "launch/command_line.h"
#include "launch/model_folder.h"
#include "models/parts/linear_parts.h"
#include "parallel/engine/converted_weights.h"

namespace strata {
namespace cmd_convert_detail {

nlohmann::ordered_json changed_config(const ModelSpec& model, const CommandLine& line) {
  auto j = nlohmann::ordered_json::parse(model.foreign_config());
  const auto kind = line.value("linear");
  if (!kind) {
    for (const char* option : {"targets", "blocks", "shuffle", "init"}) {
      if (line.has(option))
        throw ConfigError(cat("--", option), "given", "nothing without --linear");
    }
    return j;
  }
  for (const std::string& key : linear_structure_keys()) j.erase(key);
  if (*kind == "dense") return j;
  if (*kind != "monarch" && *kind != "blockdiag")
    throw ConfigError("--linear", cat('"', *kind, '"'), "dense, monarch, blockdiag");
  j["structured_linear"] = *kind == "monarch" ? "MonarchLinear" : "BlockdiagLinear";
  j["structured_targets"] = split(line.value("targets").value_or("*"), ',');
  double blocks = 4;
  if (const auto text = line.value("blocks")) {
    if (!parse_number(*text, blocks) || blocks < 1 || blocks != std::floor(blocks))
      throw ConfigError("--blocks", cat('"', *text, '"'), "integer >= 1");
  }
  j["nblocks"] = static_cast<int64_t>(blocks);
  j["shuffle"] = line.has("shuffle");
  return j;
}

bool shuffled(const ModelSpec& model) {
  const auto j = nlohmann::json::parse(model.foreign_config());
  return j.value("shuffle", false);
}

// Matrices that multiply quantised activations: those with a norm of their own.
std::set<std::string> ternary_names(const ModelSpec& model) {
  std::set<std::string> all, out;
  for (const ParamMeta& meta : parameter_metas(model)) all.insert(meta.name);
  for (const std::string& name : all) {
    if (!ends_with(name, ".weight") || ends_with(name, ".norm.weight")) continue;
    const std::string linear = name.substr(0, name.size() - 7);
    if (all.count(linear + ".norm.weight") > 0) out.insert(name);
  }
  return out;
}

}  // namespace cmd_convert_detail

int ckpt_convert(const Arguments& arguments) {
  using namespace cmd_convert_detail;
  CommandLine line(
      "ckpt convert", "FROM TO [--linear=dense|monarch|blockdiag ...] [--ternary]",
      "Writes config.json and model.safetensors of the family's own form into the folder TO.\n"
      "FROM is such a folder, a checkpoint, or a run (its newest checkpoint). With --linear the\n"
      "blocks' linears take another form: dense from structured ones exactly, structured ones\n"
      "nearest to dense ones. Optimizer state is not kept.");
  line.positional("folder", 2, 2);
  line.option("linear", "KIND", "form of the linears in TO; default: as in FROM");
  line.option("targets", "GLOBS", "which become structured, for example mlp.*; default *");
  line.option("blocks", "N", "blocks of a structured weight; default 4");
  line.flag("shuffle", "blockdiag: interleave the input's features");
  line.flag("ternary", "MatMul-free models: weights as packed codes and their scale");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  const std::filesystem::path to = line.words()[1];
  if (std::filesystem::exists(to / "model.safetensors"))
    throw ConfigError("TO", to.string(), "a folder without model.safetensors");
  const ModelFolder from = open_model_folder(line.words()[0], arguments.families);
  const auto config = changed_config(*from.model, line);
  const std::shared_ptr<const ModelSpec> model = make_model_from_json(config.dump(), "TO");
  const auto converted = make_converted_weights(
      *from.weights, *from.model, {.shuffled = shuffled(*model) || shuffled(*from.model)});

  std::set<std::string> ternary;
  if (line.has("ternary")) {
    ternary = ternary_names(*model);
    if (ternary.empty())
      throw ConfigError("--ternary", "given",
                        cat("nothing: ", model->family(), " has no ternary weights"));
  }
  const size_t written = write_model_folder(to, config, *model, *converted, ternary);
  for (const ProjectionError& error : projection_errors(*converted))
    std::cout << cat(error.name, ": ", number_text(error.relative * 100),
                     " % of its norm is lost\n");
  std::cout << cat(written, " tensors in ", (to / "model.safetensors").string(), "\n");
  return 0;
}

}  // namespace strata
