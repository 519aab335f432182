#pragma once
// Pointwise functions of feed-forward layers, computed in fp32 (fp64 for fp64 inputs), output in
// the dtype of x.
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata::ops {

// silu(gate) * up, in one pass, keeping only gate and up for the backward.
Tensor swiglu(const Tensor& gate, const Tensor& up);
Tensor swiglu_composite(const Tensor& gate, const Tensor& up);

// Names as in HF config files: gelu, gelu_new (= gelu_pytorch_tanh), silu (= swish), relu.
const std::vector<std::string>& activation_names();
Tensor activation(const Tensor& x,
                  const std::string& name);  // differentiable; name is one of activation_names()

}  // namespace strata::ops
