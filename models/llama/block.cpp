#include "models/llama/block.h"

#include <ATen/TensorOperators.h>

#include <cmath>

#include "core/ops/attention.h"
#include "core/ops/linear.h"

namespace strata {

LlamaAttention::LlamaAttention(const LlamaConfig& c, const ParallelLayout& layout)
    : Region(layout), c_(c) {
  const int64_t K = c.head_dim();
  const LinearOptions options{.bias = c.attention_bias, .init_std = c.initializer_range};
  q_ = linear("q_proj", c.hidden_size, c.num_attention_heads * K, split_out(K), options);
  k_ = linear("k_proj", c.hidden_size, c.kv_heads() * K, split_or_replicate(K), options);
  v_ = linear("v_proj", c.hidden_size, c.kv_heads() * K, split_or_replicate(K), options);
  o_ = linear("o_proj", c.num_attention_heads * K, c.hidden_size, split_in(K), options);
}

Tensor LlamaAttention::forward(const Tensor& x_BTD, const Batch& batch) {
  const int64_t K = c_.head_dim();
  const auto table = ops::rope_table(c_.rope_theta, K, c_.max_position_embeddings, c_.rope_scaling,
                                     batch.length());
  auto q_BTHK = ops::rope(ops::split_heads(q_(x_BTD), K), batch.positions, table);
  auto k_BTGK = ops::rope(ops::split_heads(k_(x_BTD), K), batch.positions, table);
  auto v_BTGK = ops::split_heads(v_(x_BTD), K);
  const auto dropout =
      attention_dropout(c_.attention_dropout, q_BTHK.size(2), c_.num_attention_heads, batch);
  auto o_BTHK = ops::causal_attention(q_BTHK, k_BTGK, v_BTGK, batch.segments,
                                      1.0 / std::sqrt(double(K)), dropout);
  return o_(ops::merge_heads(o_BTHK));
}

LlamaBlock::LlamaBlock(const LlamaConfig& c, const ParallelLayout& layout) : Layer(layout) {
  attn_norm_ = rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps);
  attn_ = add<LlamaAttention>("self_attn", c, layout);
  mlp_norm_ = rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps);
  mlp_ = add<SwigluMlp>("mlp", c.hidden_size, c.intermediate_size, c.initializer_range, c.mlp_bias,
                        layout);
}

Tensor LlamaBlock::forward(const Tensor& x_BTD, const Batch& batch) {
  auto h_BTD = x_BTD + (*attn_)(attn_norm_(x_BTD), batch);
  return h_BTD + (*mlp_)(mlp_norm_(h_BTD), batch);
}

}  // namespace strata
