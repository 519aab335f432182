#include "models/parts/block_parts.h"

#include <nlohmann/json.hpp>

#include "core/config/visitor.h"

namespace strata {

void BlockParts::visit(ConfigVisitor& v) { residual.visit(v); }

LinearOptions BlockParts::linear(const std::string&, LinearOptions options) const {
  return options;
}

void BlockParts::write(nlohmann::ordered_json& config) const {
  if (residual.kind != "plain") config["residual"] = residual.kind;
}

}  // namespace strata
