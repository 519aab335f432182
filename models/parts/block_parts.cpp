#include "models/parts/block_parts.h"

#include <nlohmann/json.hpp>

#include "core/config/visitor.h"

namespace strata {

void BlockParts::visit(ConfigVisitor& v, const std::vector<std::string>& linear_names,
                       const std::vector<std::string>& low_rank_names) {
  residual.visit(v);
  linears.visit(v, linear_names, low_rank_names.empty() ? linear_names : low_rank_names);
}

void BlockParts::write(nlohmann::ordered_json& config) const {
  linears.write(config);
  if (residual.plain()) return;
  config["residual"] = residual.kind;
  config["residual_streams"] = residual.streams;
  config["residual_reduce"] = residual.reduce;
  config["residual_init_std"] = residual.init_std;
  config["residual_identity_offset"] = residual.identity_offset;
  config["residual_sinkhorn_iterations"] = residual.sinkhorn_iterations;
  config["residual_sinkhorn_order"] = residual.sinkhorn_order;
  config["residual_lr_scale"] = residual.lr_scale;
  config["residual_weight_decay"] = residual.weight_decay;
}

}  // namespace strata
