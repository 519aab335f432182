#include "models/deltaproduct/block.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>

#include <algorithm>
#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/delta_product.h"
#include "core/ops/depthwise_conv.h"
#include "core/ops/gated_norm.h"
#include "core/ops/l2_norm.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/rng.h"
#include "core/text.h"
#include "models/parts/feature_map.h"

namespace strata {

namespace deltaproduct_block_detail {

// `name` within its block; fan_out: of one step's matrix.
LinearOptions options_of(const DeltaProductConfig& c, const std::string& name, int64_t in,
                         int64_t fan_out) {
  LinearOptions options{.init_std = c.initializer_range};
  if (c.paper_init() && starts_with(name, "attn.")) {
    const double bound = std::exp2(-2.5) * std::sqrt(6.0 / static_cast<double>(in + fan_out));
    options.weight_init = Init::uniform(-bound, bound);
  }
  if (c.paper_init() && name == "mlp.down_proj") {
    const double bound =
        1 / std::sqrt(static_cast<double>(in) * 2 * static_cast<double>(c.num_hidden_layers));
    options.weight_init = Init::uniform(-bound, bound);
  }
  return c.parts.linear(name, options);
}

// Rows (step, head, width): every step's heads are dealt out by themselves. A head that has fewer
// units than there are ranks is held by several of them.
ShardSpec by_step(int64_t steps, int64_t width, int64_t unit, bool replicate) {
  ShardSpec spec{.dim = 0, .unit = unit, .replicate = replicate};
  if (steps > 1) spec.segments.assign(static_cast<size_t>(steps), width);
  return spec;
}

// Elements drawn for one block, whatever the layout.
Init drawn(uint64_t seed, int block, const char* name, double (*value)(double uniform)) {
  const Rng rng(seed, "init", cat("model.layers.", block, ".attn.", name));
  return Init::of([rng, value](int64_t e) { return value(rng.uniform(static_cast<uint64_t>(e))); });
}
// log(u), u uniform in (1e-6, 16): the decay at softplus = 1.
double log_of_uniform(double u) { return std::log(1e-6 + u * (16 - 1e-6)); }
// Inverse softplus of a step size, log-uniform in (0.001, 0.1).
double inverse_softplus(double u) {
  const double dt = std::max(std::exp(std::log(1e-3) + u * std::log(1e2)), 1e-4);
  return dt + std::log(-std::expm1(-dt));
}

}  // namespace deltaproduct_block_detail

using namespace deltaproduct_block_detail;

DeltaProductMixer::DeltaProductMixer(const DeltaProductConfig& c, int block,
                                     const ParallelLayout& layout)
    : Region(layout),
      c_(c),
      parts_(std::max(1, layout.tp_size() / static_cast<int>(c.value_heads()))) {
  const int64_t D = c.hidden_size, n = c.steps(), K = c.head_k(), V = c.head_v();
  const int64_t H = c.num_heads, G = c.value_heads();
  const MatrixView view = n > 1 ? MatrixView::Segments : MatrixView::Whole;
  const auto make = [&](const char* name, int64_t steps, int64_t out, const ShardSpec& shard) {
    LinearOptions options = options_of(c, cat("attn.", name), D, out);
    if (steps > 1) options.view = view;
    return linear(name, D, steps * out, shard, options);
  };
  // Values may be cut within heads (columns of the state do not influence one another), queries and
  // keys are then held by all ranks that share a head.
  const ShardSpec values = by_step(1, G * V, 1, false), values_n = by_step(n, G * V, 1, false);
  const ShardSpec keys = by_step(1, H * K, K, true), keys_n = by_step(n, H * K, K, true);
  q_ = make("q_proj", 1, H * K, keys);
  k_ = make("k_proj", n, H * K, keys_n);
  v_ = make("v_proj", n, G * V, values_n);
  if (c.use_beta) b_ = make("b_proj", n, G, by_step(n, G, 1, true));
  if (c.use_forget_gate) {
    a_ = make("a_proj", 1, G, by_step(1, G, 1, true));
    const ParamOptions options{.fp32 = true, .weight_decay = false};
    A_log_ = param("A_log", {G}, by_step(1, G, 1, true),
                   drawn(layout.seed(), block, "A_log", log_of_uniform), options);
    dt_bias_ = param("dt_bias", {G}, by_step(1, G, 1, true),
                     drawn(layout.seed(), block, "dt_bias", inverse_softplus), options);
  }
  if (c.use_short_conv) {
    const double bound = 1 / std::sqrt(static_cast<double>(c.conv_size));
    const Init init =
        c.paper_init() ? Init::uniform(-bound, bound) : Init::normal(c.initializer_range);
    const auto conv = [&](const char* name, int64_t channels, const ShardSpec& shard) {
      return param(cat(name, ".weight"), {channels, 1, c.conv_size}, shard, init,
                   {.kind = ParamKind::Other});
    };
    q_conv_ = conv("q_conv1d", H * K, keys);
    k_conv_ = conv("k_conv1d", n * H * K, keys_n);
    v_conv_ = conv("v_conv1d", n * G * V, values_n);
  }
  if (c.use_output_gate) gate_ = make("g_proj", 1, G * V, values);
  norm_ = param("o_norm.weight", {V}, replicated(), Init::ones(),
                {.fp32 = true, .weight_decay = false});
  o_ = linear("o_proj", G * V, D, split_in(1), options_of(c, "attn.o_proj", G * V, D));
}

Tensor DeltaProductMixer::stream(const char* name, const Tensor& x_BTC, const Tensor& weight_C1W,
                                 const std::string& activation, int64_t width,
                                 const Batch& batch) const {
  const bool silu = activation == "silu";
  Tensor y = x_BTC;
  if (c_.use_short_conv) {
    const auto result = ops::depthwise_conv(x_BTC, weight_C1W, Tensor(), ops::Padding::Causal, silu,
                                            batch.segments, recall(batch, name));
    remember(batch, name, result.tail);
    y = result.y;
  } else if (silu) {
    y = ops::activation(y, "silu");
  }
  if (activation == "relu") y = feature_map(y, "relu");
  if (activation == "elu") y = feature_map(y, "elu_p1");
  return y.view({y.size(0), y.size(1), -1, width});
}

Tensor DeltaProductMixer::normalised(const Tensor& x, double scale) const {
  if (c_.qk_norm == "l2") return ops::l2_normalise(x, scale);
  const Tensor wide = x.to(accumulate_dtype(x.scalar_type()));
  return (wide * (scale / wide.sum(-1, true))).to(x.scalar_type());
}

Tensor DeltaProductMixer::beta(const Tensor& x_BTD, const Tensor& k_BMHK, int64_t heads) const {
  const auto acc = accumulate_dtype(k_BMHK.scalar_type());
  const double most = c_.allow_neg_eigval ? 2 : 1;
  const Shape shape = {k_BMHK.size(0), k_BMHK.size(1), heads};
  if (!c_.use_beta) return at::ones(shape, k_BMHK.options().dtype(acc)) * most;
  return (at::sigmoid(b_(x_BTD).to(acc)) * most).view(shape);
}

// -exp(A_log) softplus(a + dt_bias)
Tensor DeltaProductMixer::decay(const Tensor& x_BTD) const {
  if (!c_.use_forget_gate) return {};
  const Tensor a_BTG = a_(x_BTD);
  const auto acc = accumulate_dtype(a_BTG.scalar_type());
  return at::softplus(a_BTG.to(acc) + dt_bias_.to(acc)) * -A_log_.to(acc).exp();
}

Tensor DeltaProductMixer::output_norm(const Tensor& o_BTGV, const Tensor& z_BTGV) const {
  if (parts_ == 1) {
    if (!z_BTGV.defined()) return ops::rms_norm(o_BTGV, norm_, c_.norm_eps);
    return ops::rms_norm_gated(o_BTGV, z_BTGV, norm_, c_.norm_eps);
  }
  // This rank has some columns of one head: its sum of squares goes to that head's place.
  const auto acc = accumulate_dtype(o_BTGV.scalar_type());
  const int64_t heads = c_.value_heads(), head = layout().tp_index() / parts_;
  const int64_t width = o_BTGV.size(-1), first = layout().tp_index() % parts_ * width;
  const Tensor o = o_BTGV.to(acc);
  const Tensor squares =
      tp().all_reduce(at::constant_pad_nd(o.square().sum(-1), {head, heads - 1 - head}));
  const Tensor mean = squares.narrow(-1, head, 1).unsqueeze(-1) / static_cast<double>(c_.head_v());
  Tensor y = o * (mean + c_.norm_eps).rsqrt() * norm_.to(acc).narrow(0, first, width);
  if (z_BTGV.defined()) y = y * at::silu(z_BTGV.to(acc));
  return y.to(o_BTGV.scalar_type());
}

Tensor DeltaProductMixer::forward(const Tensor& x_BTD, const Batch& batch) {
  const int64_t K = c_.head_k(), V = c_.head_v() / parts_;
  const int64_t B = x_BTD.size(0), T = x_BTD.size(1), M = T * c_.steps();
  auto q_BTHK = stream("q_conv", q_(x_BTD), q_conv_, c_.qk_activation, K, batch);
  auto k_BMHK =
      stream("k_conv", k_(x_BTD), k_conv_, c_.qk_activation, K, batch).view({B, M, -1, K});
  const auto v_BMGV = stream("v_conv", v_(x_BTD), v_conv_, "silu", V, batch).view({B, M, -1, V});
  q_BTHK = normalised(q_BTHK, 1 / std::sqrt(static_cast<double>(K)));
  k_BMHK = normalised(k_BMHK, 1);
  const int64_t G = v_BMGV.size(2), repeats = G / k_BMHK.size(2);
  if (repeats > 1) {
    q_BTHK = q_BTHK.repeat_interleave(repeats, 2);
    k_BMHK = k_BMHK.repeat_interleave(repeats, 2);
  }
  const auto result =
      ops::delta_product({q_BTHK, k_BMHK, v_BMGV, decay(x_BTD), beta(x_BTD, k_BMHK, G),
                          batch.segments, recall(batch, "state")});
  remember(batch, "state", result.state_BHKV);
  const Tensor z_BTGV = c_.use_output_gate ? gate_(x_BTD).view({B, T, G, V}) : Tensor();
  return o_(ops::merge_heads(output_norm(result.o_BTHV, z_BTGV)));
}

DeltaProductBlock::DeltaProductBlock(const DeltaProductConfig& c, int block,
                                     const ParallelLayout& layout)
    : Layer(layout) {
  attn_norm_ = rms_norm("attn_norm", c.hidden_size, c.norm_eps);
  if (c.attn.has(block)) {
    attn_ = add<SoftmaxAttention>(
        "attn", c.attn, c.hidden_size,
        [&](const std::string& name) {
          return c.parts.linear(cat("attn.", name), {.init_std = c.initializer_range});
        },
        layout);
  } else {
    attn_ = add<DeltaProductMixer>("attn", c, block, layout);
  }
  mlp_norm_ = rms_norm("mlp_norm", c.hidden_size, c.norm_eps);
  mlp_ = add<SwigluMlp>(
      "mlp", c.hidden_size, c.ffn_dim(),
      [&](const std::string& name) {
        return options_of(c, cat("mlp.", name), name == "down_proj" ? c.ffn_dim() : c.hidden_size,
                          name == "down_proj" ? c.hidden_size : c.ffn_dim());
      },
      layout);
  attn_residual_ = add<Residual>("hc_attn", c.parts.residual, c.hidden_size, 2 * block, layout);
  mlp_residual_ = add<Residual>("hc_mlp", c.parts.residual, c.hidden_size, 2 * block + 1, layout);
}

Tensor DeltaProductBlock::forward(const Tensor& x_BTD, const Batch& batch) {
  auto h_BTD = (*attn_residual_)(
      x_BTD, batch, [&](const Tensor& u_BTD) { return (*attn_)(attn_norm_(u_BTD), batch); });
  return (*mlp_residual_)(h_BTD, batch,
                          [&](const Tensor& u_BTD) { return (*mlp_)(mlp_norm_(u_BTD), batch); });
}

}  // namespace strata
