#include "models/parts/linear_parts.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/config/visitor.h"
#include "core/ops/monarch.h"
#include "core/text.h"

namespace strata {

void LinearParts::visit(ConfigVisitor& v, const std::vector<std::string>& names) {
  v.field("linear", kind, one_of({"dense", "monarch", "blockdiag"}),
          "form of the weights of linear_targets (models/monarch/README.md)");
  v.field("linear_targets", targets, any_text(),
          "linears of a block that are structured: names or globs, as mlp.*");
  v.field("linear_blocks", blocks, at_least(1), "blocks of a structured weight");
  v.field("linear_shuffle", shuffle, "blockdiag: features of the input are interleaved first");
  v.field("linear_init", init, one_of({"reference", "match_dense", "project_dense"}),
          "initial structured weights");
  if (structured() && targets.empty())
    v.problem("linear_targets", "nothing", "names or globs of linears, or *");
  for (const std::string& target : targets) {
    const auto called = [&](const std::string& name) { return glob_match(target, name); };
    if (structured() && std::none_of(names.begin(), names.end(), called)) {
      v.problem("linear_targets", cat('"', target, '"'), cat(join(names), ", or globs of them"),
                did_you_mean(target, names));
    }
  }
  if (shuffle && kind != "blockdiag")
    v.problem("linear_shuffle", "true", "false", " (only linear = blockdiag shuffles)");
}

bool LinearParts::targeted(const std::string& name) const {
  return structured() && std::any_of(targets.begin(), targets.end(),
                                     [&](const auto& target) { return glob_match(target, name); });
}

LinearOptions LinearParts::apply(const std::string& name, LinearOptions options) const {
  if (!targeted(name)) return options;
  LinearStructure& s = options.structure;
  s.kind =
      kind == "monarch" ? LinearStructure::Kind::Monarch : LinearStructure::Kind::BlockDiagonal;
  s.blocks = blocks;
  s.shuffle = shuffle;
  s.start = init == "reference"     ? LinearStructure::Start::Reference
            : init == "match_dense" ? LinearStructure::Start::MatchDense
                                    : LinearStructure::Start::ProjectDense;
  return options;
}

double LinearParts::cost(const std::string& name, int64_t in, int64_t out) const {
  if (!targeted(name)) return static_cast<double>(in) * static_cast<double>(out);
  const auto s = ops::monarch_shape(in, out, blocks);
  const auto b = static_cast<double>(blocks), p = static_cast<double>(s.in_block),
             o = static_cast<double>(s.out_block), q = static_cast<double>(s.middle_block);
  return kind == "monarch" ? b * q * (p + o) : b * p * o;
}

double LinearParts::swiglu_flops(const std::string& prefix, int64_t width, int64_t inner) const {
  return 2 * (cost(cat(prefix, "gate_proj"), width, inner) +
              cost(cat(prefix, "up_proj"), width, inner) +
              cost(cat(prefix, "down_proj"), inner, width));
}

void LinearParts::write(nlohmann::ordered_json& config) const {
  if (!structured()) return;
  config["structured_linear"] = kind == "monarch" ? "MonarchLinear" : "BlockdiagLinear";
  config["structured_targets"] = targets;
  config["nblocks"] = blocks;
  config["shuffle"] = shuffle;
  if (init != "reference") config["linear_init"] = init;
}

}  // namespace strata
