#pragma once
// Which linears of a family's blocks are structured (models/monarch/README.md). Keys:
//
//   linear          dense | monarch | blockdiag
//   linear_targets  names within a block, or globs of them: "mlp.*, self_attn.q_proj"
//   linear_blocks   blocks of each factor
//   linear_shuffle  blockdiag only
//   linear_init     reference | match_dense | project_dense
//
// A config.json may say the same with structured_linear (MonarchLinear, BlockdiagLinear),
// structured_targets, nblocks and shuffle (models/register.cpp).
#include <nlohmann/json_fwd.hpp>
#include <string>
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

  bool structured() const { return kind != "dense"; }
  bool targeted(const std::string& name) const;  // structured, and one of the targets
  LinearOptions apply(const std::string& name, LinearOptions options) const;
  // Multiplications of one row with the linear: elements of its weights.
  double cost(const std::string& name, int64_t in, int64_t out) const;
  // Forward, per token, of the feed-forward layer whose linears begin with `prefix`.
  double swiglu_flops(const std::string& prefix, int64_t width, int64_t inner) const;

  // A target that none of the family's linears is called by is a problem.
  void visit(ConfigVisitor& v, const std::vector<std::string>& names);
  void write(nlohmann::ordered_json& config) const;
};

}  // namespace strata
