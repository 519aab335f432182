#pragma once
// CPU kernels of gated_norm.h. The weight is contiguous and of the accumulate dtype; outputs are
// contiguous.
#include "core/tensor.h"

namespace strata::ops::gated_norm_cpu {

// rstd: one value per row, accumulate dtype, for the backward.
Tensor forward(const Tensor& x, const Tensor& z, const Tensor& weight, double eps, Tensor& rstd);

struct Gradients {
  Tensor x, z, weight;
};
// The weight's gradient stays undefined where it is not wanted.
Gradients backward(const Tensor& dy, const Tensor& x, const Tensor& z, const Tensor& weight,
                   const Tensor& rstd, bool want_weight);

}  // namespace strata::ops::gated_norm_cpu
