#include "parallel/nn/mlp.h"

#include "core/ops/activation.h"

namespace strata {

SwigluMlp::SwigluMlp(int64_t dim, int64_t ffn_dim, const Options& options,
                     const ParallelLayout& layout)
    : Region(layout) {
  gate_ = linear("gate_proj", dim, ffn_dim, split_out(), options("gate_proj"));
  up_ = linear("up_proj", dim, ffn_dim, split_out(), options("up_proj"));
  down_ = linear("down_proj", ffn_dim, dim, split_in(), options("down_proj"));
}

Tensor SwigluMlp::forward(const Tensor& x_BTD, const Batch&) {
  return down_(ops::swiglu(gate_(x_BTD), up_(x_BTD)));
}

}  // namespace strata
