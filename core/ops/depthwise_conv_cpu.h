#pragma once
// CPU kernels of depthwise_conv.h. Weight [W,C] and bias [C] are contiguous, of the accumulate
// dtype of x; outputs are contiguous.
#include "core/tensor.h"

namespace strata::ops::depthwise_conv_cpu {

struct Filter {
  Tensor weight_WC;
  Tensor bias_C;       // undefined: none
  int64_t before = 0;  // taps that reach back
  bool silu = false;
  Tensor segments_BT;  // undefined, or contiguous int32
};

Tensor forward(const Tensor& x_BTC, const Filter& filter);

// Gradients that are asked for; the others stay undefined.
struct Gradients {
  Tensor x, weight_WC, bias_C;
};
struct Wanted {
  bool x = true, weight = true, bias = true;
};
Gradients backward(const Tensor& dy_BTC, const Tensor& x_BTC, const Filter& filter, Wanted wanted);

}  // namespace strata::ops::depthwise_conv_cpu
