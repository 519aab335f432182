#include "models/parts/residual.h"

#include <ATen/TensorOperators.h>

#include "core/config/visitor.h"

namespace strata {

void ResidualConfig::visit(ConfigVisitor& v) {
  v.field("residual", kind, one_of({"plain"}), "how sub-layers join the residual stream");
}

Residual::Residual(const ResidualConfig&, int64_t, int, const ParallelLayout& layout)
    : Module(layout) {}

Tensor Residual::operator()(const Tensor& x_BTD,
                            const std::function<Tensor(const Tensor&)>& branch) {
  return x_BTD + branch(x_BTD);
}

}  // namespace strata
