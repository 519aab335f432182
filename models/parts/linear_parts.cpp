#include "models/parts/linear_parts.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/config/reader.h"
#include "core/config/visitor.h"
#include "core/ops/monarch.h"
#include "core/text.h"

namespace strata {
namespace linear_parts_detail {

// Whether a pattern of linear_ranks can mean the linear of some block. The number of blocks is not
// known here: a hundred are enough for globs, and a number stands for itself.
bool fits_some_block(const std::string& pattern, const std::string& name) {
  const std::string head = pattern.substr(0, pattern.find('.'));
  if (!head.empty() && head.find_first_not_of("0123456789") == std::string::npos)
    return glob_match(pattern, cat(head, '.', name));
  for (int block = 0; block < 100; ++block) {
    if (glob_match(pattern, cat(block, '.', name))) return true;
  }
  return false;
}

}  // namespace linear_parts_detail

void LinearParts::visit(ConfigVisitor& v, const std::vector<std::string>& names,
                        const std::vector<std::string>& low_rank_names) {
  v.field("linear", kind, one_of({"dense", "monarch", "blockdiag", "lowrank"}),
          "form of the weights of linear_targets or linear_ranks (models/monarch/README.md)");
  v.field("linear_targets", targets, any_text(),
          "linears of a block that are structured: names or globs, as mlp.*");
  v.field("linear_blocks", blocks, at_least(1), "blocks of a structured weight");
  v.field("linear_shuffle", shuffle, "blockdiag: features of the input are interleaved first");
  v.field("linear_init", init, one_of({"reference", "match_dense", "project_dense"}),
          "initial structured weights");
  v.field("linear_ranks", ranks, any_text(),
          "lowrank: BLOCK.NAME=RANK with globs, as 0.mlp.up_proj=12 or *.mlp.*=16");
  if (low_rank() || !ranks.empty()) return visit_ranks(v, low_rank_names);
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

void LinearParts::visit_ranks(ConfigVisitor& v, const std::vector<std::string>& names) {
  if (!low_rank())
    v.problem("linear_ranks", join(ranks), "nothing", " (only linear = lowrank has ranks)");
  if (low_rank() && ranks.empty())
    v.problem("linear_ranks", "nothing", "BLOCK.NAME=RANK, as *.mlp.*=16");
  for (const std::string& entry : ranks) {
    const auto [pattern, rank] = parse_rank(entry);
    const size_t dot = pattern.find('.');
    if (rank < 1 || dot == std::string::npos) {
      v.problem("linear_ranks", cat('"', entry, '"'), "BLOCK.NAME=RANK with a rank of at least 1");
      continue;
    }
    const auto called = [&, text = pattern](const std::string& name) {
      return linear_parts_detail::fits_some_block(text, name);
    };
    const std::string target = pattern.substr(dot + 1);
    if (std::none_of(names.begin(), names.end(), called)) {
      v.problem("linear_ranks", cat('"', target, '"'), cat(join(names), ", or globs of them"),
                did_you_mean(target, names));
    }
  }
}

std::pair<std::string, int64_t> LinearParts::parse_rank(const std::string& entry) {
  const size_t equals = entry.rfind('=');
  double rank = 0;
  const bool good = equals != std::string::npos && parse_number(entry.substr(equals + 1), rank) &&
                    rank >= 1 && rank == std::floor(rank) && rank < 1e9;
  if (!good) return {entry, 0};
  return {std::string(trim(entry.substr(0, equals))), static_cast<int64_t>(rank)};
}

int64_t LinearParts::rank(const std::string& name) const {
  if (!low_rank()) return 0;
  const std::string full = cat(block, '.', name);
  for (const std::string& entry : ranks) {
    const auto [pattern, rank] = parse_rank(entry);
    if (glob_match(pattern, full)) return rank;
  }
  return 0;
}

bool LinearParts::low_rank_anywhere(const std::string& name) const {
  if (!low_rank()) return false;
  return std::any_of(ranks.begin(), ranks.end(), [&](const std::string& entry) {
    return linear_parts_detail::fits_some_block(parse_rank(entry).first, name);
  });
}

LinearParts LinearParts::of(int64_t block_number) const {
  LinearParts out = *this;
  out.block = block_number;
  return out;
}

bool LinearParts::targeted(const std::string& name) const {
  return structured() && !low_rank() &&
         std::any_of(targets.begin(), targets.end(),
                     [&](const auto& target) { return glob_match(target, name); });
}

LinearOptions LinearParts::apply(const std::string& name, LinearOptions options) const {
  if (const int64_t k = rank(name); k > 0) {
    options.structure.kind = LinearStructure::Kind::LowRank;
    options.structure.rank = k;
  }
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
  if (const int64_t k = rank(name); k > 0) return static_cast<double>(k * (in + out));
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
  if (low_rank()) {
    config["structured_linear"] = "LowRankLinear";
    config["linear_ranks"] = ranks;
    return;
  }
  config["structured_linear"] = kind == "monarch" ? "MonarchLinear" : "BlockdiagLinear";
  config["structured_targets"] = targets;
  config["nblocks"] = blocks;
  config["shuffle"] = shuffle;
  if (init != "reference") config["linear_init"] = init;
}

const std::vector<std::string>& linear_structure_keys() {
  static const std::vector<std::string> keys = {
      "structured_linear", "structured_targets", "nblocks",        "shuffle",     "linear",
      "linear_targets",    "linear_blocks",      "linear_shuffle", "linear_init", "linear_ranks"};
  return keys;
}

}  // namespace strata
