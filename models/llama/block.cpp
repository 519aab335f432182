#include "models/llama/block.h"

#include <cmath>

#include "core/ops/attention.h"
#include "core/ops/linear.h"
#include "core/text.h"

namespace strata {

LlamaAttention::LlamaAttention(const LlamaConfig& c, const ParallelLayout& layout)
    : Region(layout), c_(c) {
  const int64_t K = c.head_dim();
  const auto make = [&](const char* name, int64_t in, int64_t out, const ShardSpec& shard) {
    const LinearOptions options{.bias = c.attention_bias, .init_std = c.initializer_range};
    return linear(name, in, out, shard, c.parts.linear(cat("self_attn.", name), options));
  };
  q_ = make("q_proj", c.hidden_size, c.num_attention_heads * K, split_out(K));
  k_ = make("k_proj", c.hidden_size, c.kv_heads() * K, split_or_replicate(K));
  v_ = make("v_proj", c.hidden_size, c.kv_heads() * K, split_or_replicate(K));
  o_ = make("o_proj", c.num_attention_heads * K, c.hidden_size, split_in(K));
}

Tensor LlamaAttention::forward(const Tensor& x_BTD, const Batch& batch) {
  const int64_t K = c_.head_dim();
  const auto table = ops::rope_table(c_.rope_theta, K, c_.max_position_embeddings, c_.rope_scaling,
                                     batch.length());
  auto q_BTHK = ops::rope(ops::split_heads(q_(x_BTD), K), batch.positions, table);
  auto k_BSGK =
      extend(batch, "k", ops::rope(ops::split_heads(k_(x_BTD), K), batch.positions, table));
  auto v_BSGK = extend(batch, "v", ops::split_heads(v_(x_BTD), K));
  const auto dropout =
      attention_dropout(c_.attention_dropout, q_BTHK.size(2), c_.num_attention_heads, batch);
  auto o_BTHK = ops::causal_attention(q_BTHK, k_BSGK, v_BSGK, batch.segments,
                                      1.0 / std::sqrt(double(K)), dropout);
  return o_(ops::merge_heads(o_BTHK));
}

LlamaBlock::LlamaBlock(const LlamaConfig& c, int block, const ParallelLayout& layout)
    : Layer(layout) {
  attn_norm_ = rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps);
  attn_ = add<LlamaAttention>("self_attn", c, layout);
  mlp_norm_ = rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps);
  mlp_ = add<SwigluMlp>(
      "mlp", c.hidden_size, c.intermediate_size,
      [&](const std::string& name) {
        return c.parts.linear(cat("mlp.", name),
                              {.bias = c.mlp_bias, .init_std = c.initializer_range});
      },
      layout);
  attn_residual_ = add<Residual>("hc_attn", c.parts.residual, c.hidden_size, 2 * block, layout);
  mlp_residual_ = add<Residual>("hc_mlp", c.parts.residual, c.hidden_size, 2 * block + 1, layout);
}

Tensor LlamaBlock::forward(const Tensor& x_BTD, const Batch& batch) {
  auto h_BTD = (*attn_residual_)(
      x_BTD, batch, [&](const Tensor& u_BTD) { return (*attn_)(attn_norm_(u_BTD), batch); });
  return (*mlp_residual_)(h_BTD, batch,
                          [&](const Tensor& u_BTD) { return (*mlp_)(mlp_norm_(u_BTD), batch); });
}

}  // namespace strata
