#pragma once
// CPU kernels of activation.h. All tensors of a call have one shape and dtype.
#include "core/tensor.h"

namespace strata::ops::activation_cpu {

enum class Kind : int64_t { Gelu, GeluTanh, Relu, Silu };

Tensor forward(const Tensor& x, Kind kind);
// Gradient of x from that of the output.
Tensor backward(const Tensor& dy, const Tensor& x, Kind kind);

Tensor swiglu_forward(const Tensor& gate, const Tensor& up);
void swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup);

}  // namespace strata::ops::activation_cpu
