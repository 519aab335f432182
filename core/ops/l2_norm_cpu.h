#pragma once
// CPU kernels of l2_norm.h.
#include "core/tensor.h"

namespace strata::ops::l2_norm_cpu {

inline constexpr double kEps = 1e-6;
Tensor forward(const Tensor& x, double scale);
Tensor backward(const Tensor& dy, const Tensor& x, double scale);

}  // namespace strata::ops::l2_norm_cpu
