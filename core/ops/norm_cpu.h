#pragma once
// CPU kernels of norm.h. Weights and biases are contiguous, of the accumulate dtype of x; outputs
// are contiguous.
#include "core/tensor.h"

namespace strata::ops::norm_cpu {

// Kept from the forward, one value per row, accumulate dtype; mean only for layer norm.
struct Statistics {
  Tensor mean, rstd;
};

// Gradients that are asked for; the others stay undefined.
struct Gradients {
  Tensor x, weight, bias;
};
struct Wanted {
  bool x = true, weight = true, bias = true;
};

Tensor rms_norm_forward(const Tensor& x, const Tensor& weight, double eps, Statistics& statistics);
Gradients rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                            const Statistics& statistics, Wanted wanted);

// bias may be undefined.
Tensor layer_norm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                          Statistics& statistics);
Gradients layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                              const Statistics& statistics, Wanted wanted);

}  // namespace strata::ops::norm_cpu
