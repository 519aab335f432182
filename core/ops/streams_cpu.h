#pragma once
// CPU kernels of core/ops/streams.h. Tensors are contiguous; coefficients in the accumulate dtype.
#include "core/tensor.h"

namespace strata::ops::streams_cpu {

Tensor read_forward(const Tensor& x_BTnC, const Tensor& read_BTn);
// dx and dread of a gradient du [B, T, C].
void read_backward(const Tensor& du_BTC, const Tensor& x_BTnC, const Tensor& read_BTn,
                   Tensor& dx_BTnC, Tensor& dread_BTn);

Tensor write_forward(const Tensor& x_BTnC, const Tensor& y_BTC, const Tensor& mix_BTnn,
                     const Tensor& write_BTn);
struct WriteGradients {
  Tensor x, y, mix, write;
};
WriteGradients write_backward(const Tensor& g_BTnC, const Tensor& x_BTnC, const Tensor& y_BTC,
                              const Tensor& mix_BTnn, const Tensor& write_BTn);

}  // namespace strata::ops::streams_cpu
