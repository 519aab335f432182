#include "parallel/nn/mlp.h"

#include "core/ops/activation.h"

namespace strata {

SwigluMlp::SwigluMlp(int64_t dim, int64_t ffn_dim, double init_std, bool bias,
                     const ParallelLayout& layout)
    : Region(layout) {
  const LinearOptions options{.bias = bias, .init_std = init_std};
  gate_ = linear("gate_proj", dim, ffn_dim, split_out(), options);
  up_ = linear("up_proj", dim, ffn_dim, split_out(), options);
  down_ = linear("down_proj", ffn_dim, dim, split_in(), options);
}

Tensor SwigluMlp::forward(const Tensor& x_BTD, const Batch&) {
  return down_(ops::swiglu(gate_(x_BTD), up_(x_BTD)));
}

}  // namespace strata
