#pragma once
// Root mean square norm of each row of V features, then a gate: the output path of linear-attention
// layers, where a row is one head of one token.
//
//   y = x / sqrt(mean(x^2) + eps) * weight * silu(z)
//
// Statistics, gate and product in fp32 (fp64 for fp64 inputs), rounded once to the dtype of x. The
// backward keeps x, z and one number per row.
#include "core/tensor.h"

namespace strata::ops {

// x and z [..., V] of one dtype; weight_V is shared by all rows, undefined: ones.
Tensor rms_norm_gated(const Tensor& x, const Tensor& z, const Tensor& weight_V, double eps);
Tensor rms_norm_gated_composite(const Tensor& x, const Tensor& z, const Tensor& weight_V,
                                double eps);

}  // namespace strata::ops
