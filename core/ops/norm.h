#pragma once
// Normalisation over the last dimension, D features. Statistics in fp32 (fp64 for fp64 inputs);
// output in the dtype of x. Weights may be fp32 beside 16-bit activations.
#include "core/tensor.h"

namespace strata::ops {

// y = x / sqrt(mean(x^2) + eps) * weight
Tensor rms_norm(const Tensor& x, const Tensor& weight_D, double eps);
Tensor rms_norm_composite(const Tensor& x, const Tensor& weight_D, double eps);

// y = (x - mean) / sqrt(var + eps) * weight + bias, variance divided by D
Tensor layer_norm(const Tensor& x, const Tensor& weight_D, const Tensor& bias_D, double eps);
Tensor layer_norm_composite(const Tensor& x, const Tensor& weight_D, const Tensor& bias_D,
                            double eps);

}  // namespace strata::ops
