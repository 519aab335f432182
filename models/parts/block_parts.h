#pragma once
// Choices that every family offers for its blocks, beside the keys of its own config.json.
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "models/parts/linear_parts.h"
#include "models/parts/residual.h"
#include "parallel/nn/module.h"

namespace strata {

class ConfigVisitor;

struct BlockParts {
  ResidualConfig residual;
  LinearParts linears;

  // linear_names: of the linears within a block, as `linear` is asked for them; low_rank_names:
  // where those of low rank are called otherwise.
  void visit(ConfigVisitor& v, const std::vector<std::string>& linear_names,
             const std::vector<std::string>& low_rank_names = {});
  // Options of the linear called `name` within its block ("mlp.down_proj").
  LinearOptions linear(const std::string& name, LinearOptions options) const {
    return linears.apply(name, std::move(options));
  }
  // Writes what differs from the defaults: files of plain models look as their ecosystem has them.
  void write(nlohmann::ordered_json& config) const;
};

// A family's config with its `parts` as those of one block.
template <class Config>
Config of_block(Config c, int block) {
  c.parts.linears.block = block;
  return c;
}

}  // namespace strata
