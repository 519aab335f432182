#pragma once
// Pointwise functions of queries and keys in linear attention, named as in the config files of the
// flash-linear-attention ecosystem.
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata {

// none, relu, sigmoid, logsigmoid, silu (= swish), sqrelu, gelu (tanh form), elu, elu_p1 (elu + 1).
const std::vector<std::string>& feature_map_names();
// Computed in fp32 (fp64 for fp64), dtype of x; "none" returns x.
Tensor feature_map(const Tensor& x, const std::string& name);

}  // namespace strata
