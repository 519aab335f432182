#pragma once
// Which linears of a family's blocks are structured (models/monarch/README.md). Keys:
//
//   linear          dense | monarch | blockdiag | lowrank
//   linear_targets  names within a block, or globs of them: "mlp.*, self_attn.q_proj"
//   linear_blocks   blocks of each factor
//   linear_shuffle  blockdiag only
//   linear_init     reference | match_dense | project_dense
//   linear_ranks    lowrank only, instead of the four above: "BLOCK.NAME=RANK" with globs, as
//                   "0.self_attn.q_proj=12, *.mlp.*=16"; the first that fits counts, linears that
//                   none fits stay dense
//
// A config.json may say the same with structured_linear (MonarchLinear, BlockdiagLinear,
// LowRankLinear), structured_targets, nblocks and shuffle (models/register.cpp).
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "parallel/nn/module.h"

namespace strata {

class ConfigVisitor;

struct LinearParts {
  std::string kind = "dense";
  std::vector<std::string> targets = {"*"};
  int64_t blocks = 4;
  bool shuffle = false;
  std::string init = "reference";
  std::vector<std::string> ranks;
  int64_t block = 0;  // the block that apply() and cost() speak of; only ranks depend on it

  bool structured() const { return kind != "dense"; }
  bool low_rank() const { return kind == "lowrank"; }
  // Structured in every block: one of the targets. Never of low rank.
  bool targeted(const std::string& name) const;
  // Of low rank in some block.
  bool low_rank_anywhere(const std::string& name) const;
  // Of the linear in `block`; 0: dense.
  int64_t rank(const std::string& name) const;
  LinearParts of(int64_t block) const;
  LinearOptions apply(const std::string& name, LinearOptions options) const;
  // Multiplications of one row with the linear: elements of its weights.
  double cost(const std::string& name, int64_t in, int64_t out) const;
  // Forward, per token, of the feed-forward layer whose linears begin with `prefix`.
  double swiglu_flops(const std::string& prefix, int64_t width, int64_t inner) const;

  // A target that none of the family's linears is called by is a problem.
  void visit(ConfigVisitor& v, const std::vector<std::string>& names,
             const std::vector<std::string>& low_rank_names);
  void write(nlohmann::ordered_json& config) const;

 private:
  // "0.mlp.up_proj=12" -> "0.mlp.up_proj", 12; rank 0: not of this form.
  static std::pair<std::string, int64_t> parse_rank(const std::string& entry);
  void visit_ranks(ConfigVisitor& v, const std::vector<std::string>& names);
};

// Keys of a config.json that say which linears are structured, in both spellings: without them all
// are dense.
const std::vector<std::string>& linear_structure_keys();

}  // namespace strata
