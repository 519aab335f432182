#include "models/gla/block.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/ones.h>

#include <cmath>

#include "core/ops/depthwise_conv.h"
#include "core/ops/gated_norm.h"
#include "core/ops/gla.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/text.h"
#include "models/parts/feature_map.h"

namespace strata {

namespace gla_block_detail {

// Options of the linear `name` of a block; those that write to the residual stream may start
// smaller.
LinearOptions options_of(const GlaConfig& c, const std::string& name, int64_t in) {
  LinearOptions options{.init_std = c.initializer_range};
  if (c.residual_init == "rescale" && (ends_with(name, "o_proj") || ends_with(name, "down_proj"))) {
    const double bound =
        1 / std::sqrt(static_cast<double>(in) * 2 * static_cast<double>(c.num_hidden_layers));
    options.weight_init = Init::uniform(-bound, bound);
  }
  return c.parts.linear(name, options);
}

}  // namespace gla_block_detail

GlaMixer::GlaMixer(const GlaConfig& c, const ParallelLayout& layout) : Region(layout), c_(c) {
  const int64_t D = c.hidden_size, K = c.head_k(), V = c.head_v();
  const int64_t H = c.num_heads, G = c.kv_heads();
  const auto make = [&](const char* name, int64_t in, int64_t out, const ShardSpec& shard,
                        bool bias = false) {
    LinearOptions options = gla_block_detail::options_of(c, cat("attn.", name), in);
    options.bias = bias;
    return linear(name, in, out, shard, options);
  };
  q_ = make("q_proj", D, H * K, split_out(K));
  k_ = make("k_proj", D, G * K, split_or_replicate(K));
  v_ = make("v_proj", D, G * V, split_or_replicate(V));
  if (c.use_output_gate) gate_ = make("g_proj", D, H * V, split_out(V));
  decay_in_ = make("gk_proj.0", D, GlaConfig::kGateRank, replicated());
  decay_out_ = make("gk_proj.1", GlaConfig::kGateRank, G * K, split_or_replicate(K), true);
  if (c.use_short_conv) {
    const auto conv = [&](const char* name, int64_t channels, const ShardSpec& shard) {
      return param(cat(name, ".weight"), {channels, 1, c.conv_size}, shard,
                   Init::normal(c.initializer_range), {.kind = ParamKind::Other});
    };
    q_conv_ = conv("q_conv1d", H * K, split_out(K));
    k_conv_ = conv("k_conv1d", G * K, split_or_replicate(K));
    v_conv_ = conv("v_conv1d", G * V, split_or_replicate(V));
  }
  if (c.elementwise_affine) {
    norm_ = param("g_norm.weight", {V}, replicated(), Init::ones(),
                  {.fp32 = true, .weight_decay = false});
  }
  o_ = make("o_proj", H * V, D, split_in(V));
}

Tensor GlaMixer::convolve(const char* name, const Tensor& x_BTC, const Tensor& weight_C1W,
                          const Batch& batch) const {
  if (!c_.use_short_conv) return x_BTC;
  const auto result = ops::depthwise_conv(x_BTC, weight_C1W, Tensor(), ops::Padding::Causal,
                                          /*silu=*/true, batch.segments, recall(batch, name));
  remember(batch, name, result.tail);
  return result.y;
}

Tensor GlaMixer::forward(const Tensor& x_BTD, const Batch& batch) {
  const int64_t K = c_.head_k(), V = c_.head_v();
  const auto q_BTHK = feature_map(
      ops::split_heads(convolve("q_conv", q_(x_BTD), q_conv_, batch), K), c_.feature_map);
  const auto k_BTGK = feature_map(
      ops::split_heads(convolve("k_conv", k_(x_BTD), k_conv_, batch), K), c_.feature_map);
  const auto v_BTGV = ops::split_heads(convolve("v_conv", v_(x_BTD), v_conv_, batch), V);
  // Log decays near zero would lose their digits in bf16.
  const auto a_BTC = decay_out_(decay_in_(x_BTD));
  auto g_BTC = at::log_sigmoid(a_BTC.to(accumulate_dtype(a_BTC.scalar_type()))) *
               (1 / GlaConfig::kGateNormalizer);
  if (c_.clamp_min) g_BTC = g_BTC.clamp_min(*c_.clamp_min);
  const auto result = ops::gla(q_BTHK, k_BTGK, v_BTGV, ops::split_heads(g_BTC, K), batch.segments,
                               recall(batch, "state"), 1 / std::sqrt(static_cast<double>(K)));
  remember(batch, "state", result.state_BHKV);
  const Tensor& o_BTHV = result.o_BTHV;
  if (c_.use_output_gate) {
    const auto z_BTHV = ops::split_heads(gate_(x_BTD), V);
    return o_(ops::merge_heads(ops::rms_norm_gated(o_BTHV, z_BTHV, norm_, c_.norm_eps)));
  }
  const Tensor weight_V =
      norm_.defined()
          ? norm_
          : at::ones({V}, o_BTHV.options().dtype(accumulate_dtype(o_BTHV.scalar_type())));
  return o_(ops::merge_heads(ops::rms_norm(o_BTHV, weight_V, c_.norm_eps)));
}

GlaBlock::GlaBlock(const GlaConfig& c, int block, const ParallelLayout& layout) : Layer(layout) {
  attn_norm_ = rms_norm("attn_norm", c.hidden_size, c.norm_eps);
  if (c.attn.has(block)) {
    attn_ = add<SoftmaxAttention>(
        "attn", c.attn, c.hidden_size,
        [&](const std::string& name) {
          return gla_block_detail::options_of(c, cat("attn.", name), c.hidden_size);
        },
        layout);
  } else {
    attn_ = add<GlaMixer>("attn", c, layout);
  }
  mlp_norm_ = rms_norm("mlp_norm", c.hidden_size, c.norm_eps);
  mlp_ = add<SwigluMlp>(
      "mlp", c.hidden_size, c.ffn_dim(),
      [&](const std::string& name) {
        const int64_t in = name == "down_proj" ? c.ffn_dim() : c.hidden_size;
        return gla_block_detail::options_of(c, cat("mlp.", name), in);
      },
      layout);
  attn_residual_ = add<Residual>("hc_attn", c.parts.residual, c.hidden_size, 2 * block, layout);
  mlp_residual_ = add<Residual>("hc_mlp", c.parts.residual, c.hidden_size, 2 * block + 1, layout);
}

Tensor GlaBlock::forward(const Tensor& x_BTD, const Batch& batch) {
  auto h_BTD = (*attn_residual_)(
      x_BTD, batch, [&](const Tensor& u_BTD) { return (*attn_)(attn_norm_(u_BTD), batch); });
  return (*mlp_residual_)(h_BTD, batch,
                          [&](const Tensor& u_BTD) { return (*mlp_)(mlp_norm_(u_BTD), batch); });
}

}  // namespace strata
