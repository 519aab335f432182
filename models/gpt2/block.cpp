#include "models/gpt2/block.h"

#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "core/ops/linear.h"

namespace strata {
namespace gpt2_detail {

// Projections back into the residual stream start smaller, by the square root of how many there
// are.
LinearOptions projection(const Gpt2Config& c) {
  return {.bias = c.bias,
          .init_std = c.initializer_range / std::sqrt(2.0 * static_cast<double>(c.n_layer))};
}

}  // namespace gpt2_detail

Gpt2Attention::Gpt2Attention(const Gpt2Config& c, int block, const ParallelLayout& layout)
    : Region(layout), c_(c) {
  const int64_t C = c.n_embd, K = C / c.n_head;
  scale_ = c.scale_attn_weights ? 1.0 / std::sqrt(static_cast<double>(K)) : 1.0;
  if (c.scale_attn_by_inverse_layer_idx) scale_ /= block + 1;
  qkv_ = linear("c_attn", C, 3 * C, split_out(K, {C, C, C}),
                c.parts.linear("attn.c_attn", {.bias = c.bias,
                                               .init_std = c.initializer_range,
                                               .view = MatrixView::Segments}));
  out_ = linear("c_proj", C, C, split_in(K),
                c.parts.linear("attn.c_proj", gpt2_detail::projection(c)));
}

Tensor Gpt2Attention::forward(const Tensor& x_BTC, const Batch& batch) {
  const int64_t K = c_.n_embd / c_.n_head;
  auto qkv = qkv_(x_BTC).chunk(3, -1);
  auto q_BTHK = ops::split_heads(qkv[0], K);
  auto k_BSHK = extend(batch, "k", ops::split_heads(qkv[1], K));
  auto v_BSHK = extend(batch, "v", ops::split_heads(qkv[2], K));
  const auto dropout = attention_dropout(c_.attn_pdrop, q_BTHK.size(2), c_.n_head, batch);
  return out_(ops::merge_heads(
      ops::causal_attention(q_BTHK, k_BSHK, v_BSHK, batch.segments, scale_, dropout)));
}

Gpt2Mlp::Gpt2Mlp(const Gpt2Config& c, const ParallelLayout& layout)
    : Region(layout), activation_(c.activation_function) {
  const std::string up = c.plain_mlp() ? "c_fc" : "fc1", down = c.plain_mlp() ? "c_proj" : "fc2";
  up_ = linear(up, c.n_embd, c.inner(), split_out(),
               c.parts.linear("mlp." + up, {.bias = c.bias, .init_std = c.initializer_range}));
  down_ = linear(down, c.inner(), c.n_embd, split_in(),
                 c.parts.linear("mlp." + down, gpt2_detail::projection(c)));
}

Tensor Gpt2Mlp::forward(const Tensor& x_BTC, const Batch&) {
  return down_(ops::activation(up_(x_BTC), activation_));
}

Gpt2Block::Gpt2Block(const Gpt2Config& c, int block, const ParallelLayout& layout)
    : Layer(layout), resid_pdrop_(c.resid_pdrop) {
  attn_norm_ = layer_norm("ln_1", c.n_embd, c.layer_norm_epsilon, c.bias);
  attn_ = add<Gpt2Attention>("attn", c, block, layout);
  mlp_norm_ = layer_norm("ln_2", c.n_embd, c.layer_norm_epsilon, c.bias);
  mlp_ = add<Gpt2Mlp>("mlp", c, layout);
  attn_residual_ = add<Residual>("hc_attn", c.parts.residual, c.n_embd, 2 * block, layout);
  mlp_residual_ = add<Residual>("hc_mlp", c.parts.residual, c.n_embd, 2 * block + 1, layout);
}

Tensor Gpt2Block::forward(const Tensor& x_BTC, const Batch& batch) {
  auto h_BTC = (*attn_residual_)(x_BTC, batch, [&](const Tensor& u_BTC) {
    return dropout("attn.resid_dropout", (*attn_)(attn_norm_(u_BTC), batch), resid_pdrop_, batch);
  });
  return (*mlp_residual_)(h_BTC, batch, [&](const Tensor& u_BTC) {
    return dropout("mlp.dropout", (*mlp_)(mlp_norm_(u_BTC), batch), resid_pdrop_, batch);
  });
}

}  // namespace strata
