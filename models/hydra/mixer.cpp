#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/error.h"
#include "core/ops/depthwise_conv.h"
#include "core/ops/quasiseparable.h"
#include "core/rng.h"
#include "core/text.h"
#include "models/hydra/block.h"

namespace strata {
namespace hydra_mixer_detail {

constexpr double kNormEps = 1e-5;
constexpr int64_t kMostChunk = 64;  // longer chunks cost more and change nothing

// softplus of the bias is a step size drawn between dt_min and dt_max, evenly in its logarithm.
Init step_init(const HydraConfig& c, int block, uint64_t seed) {
  const Rng rng(seed, "init", cat("hydra.dt_bias.", block));
  const double low = std::log(c.dt_min), high = std::log(c.dt_max), floor = c.dt_init_floor;
  return Init::of([=](int64_t head) {
    const double u = rng.uniform(static_cast<uint64_t>(head));
    const double step = std::max(std::exp(low + u * (high - low)), floor);
    return step + std::log(-std::expm1(-step));
  });
}

}  // namespace hydra_mixer_detail

HydraMixer::HydraMixer(const HydraConfig& c, int block, const ParallelLayout& layout)
    : Region(layout), c_(c) {
  const int64_t D = c.hidden_size, E = c.inner(), H = c.heads(), P = c.headdim, K = c.d_conv;
  const auto make = [&](const std::string& name, int64_t in, int64_t out, ShardSpec shard,
                        bool bias) {
    const LinearOptions options{.bias = bias, .init_std = c.initializer_range};
    return linear(name, in, out, std::move(shard), c.linear(name, options));
  };
  // in_proj of the files, in the parts that are cut alike.
  z_ = make("in_proj_z", D, E, split_out(P), c.bias);
  x_ = make("in_proj_x", D, E, split_out(P), c.bias);
  bc_ = make("in_proj_bc", D, c.keys(), replicated(), c.bias);
  dt_ = make("in_proj_dt", D, 2 * H, split_out(1, {H, H}), c.bias);
  const double bound = c.conv_init.value_or(1 / std::sqrt(static_cast<double>(K)));
  const double bias_bound = 1 / std::sqrt(static_cast<double>(K));
  const auto conv = [&](const std::string& name, int64_t channels, const ShardSpec& shard,
                        Tensor& weight, Tensor& bias) {
    weight = param(name + ".weight", {channels, 1, K}, shard, Init::uniform(-bound, bound),
                   {.kind = ParamKind::Other});
    if (c.conv_bias) {
      bias = param(name + ".bias", {channels}, shard, Init::uniform(-bias_bound, bias_bound),
                   {.fp32 = true, .weight_decay = false});
    }
  };
  conv("conv1d_x", E, split_out(P), conv_x_, conv_x_bias_);
  conv("conv1d_bc", c.keys(), replicated(), conv_bc_, conv_bc_bias_);
  const ParamOptions scalar{.fp32 = true, .weight_decay = false};
  dt_bias_H_ = param("dt_bias", {H}, split_out(),
                     hydra_mixer_detail::step_init(c, block, layout.seed()), scalar);
  A_log_H_ = param("A_log", {H}, split_out(), Init::zeros(), scalar);
  D_H_ = param("D", {H}, split_out(), Init::ones(), scalar);
  delta_ = make("fc_D", E, H, split_in(P), false);
  norm_E_ = param("norm.weight", {E}, split_out(P), Init::ones(), scalar);
  if (c.learnable_init_states) {
    init_HPN_ = param("init_states", {H, P, c.d_state}, split_out(), Init::zeros(), scalar);
  }
  out_ = make("out_proj", E, D, split_in(P), c.bias);
  heads_ = H / layout.tp_size();
  first_head_ = heads_ * layout.tp_index();
}

HydraMixer::Sight HydraMixer::sight(const Batch& batch) const {
  Sight out;
  const Tensor& segments = batch.segments;
  if (!segments.defined()) return out;
  const bool packed = segments.gt(0).any().item<bool>();
  if (packed && (!c_.mask_pad || c_.learnable_init_states)) {
    throw ConfigError(c_.mask_pad ? "model.learnable_init_states" : "model.mask_pad",
                      c_.mask_pad ? "true" : "false", c_.mask_pad ? "false" : "true",
                      " with several documents in a row (data.packing)");
  }
  // Without the mask only what was added for divisibility is not there.
  const Tensor there = c_.mask_pad ? segments.ge(0) : segments.ge(-1);
  if (packed) {
    out.conv_BT = out.scan_BT = segments;
  } else if (there.all().item<bool>()) {
    return out;
  } else {
    out.conv_BT = there.to(at::kInt) - 1;
  }
  out.steps_BT1 = there.unsqueeze(-1);
  return out;
}

Tensor HydraMixer::step_sizes(const Tensor& raw, const Sight& sight) const {
  const auto acc = accumulate_dtype(raw.scalar_type());
  Tensor dt = at::softplus(raw.to(acc).unflatten(-1, {2, heads_}) + dt_bias_H_.to(acc));
  if (!c_.dt_limit.empty()) dt = at::clamp(dt, c_.dt_limit[0], c_.dt_limit[1]);
  if (sight.steps_BT1.defined()) dt = dt * sight.steps_BT1.unsqueeze(-1).to(acc);
  return dt;
}

Tensor HydraMixer::keys_of(const Tensor& bc_BTK, int64_t which) const {
  Tensor all = bc_BTK.unflatten(-1, {4, c_.ngroups, c_.d_state}).select(2, which);
  const int64_t per_group = c_.heads() / c_.ngroups;
  if (per_group % heads_ == 0) return all.narrow(2, first_head_ / per_group, 1);
  if (heads_ % per_group == 0) {
    return all.narrow(2, first_head_ / per_group, heads_ / per_group);
  }
  // Heads of one group lie on several ranks, and of several groups on one.
  const Tensor head = at::arange(first_head_, first_head_ + heads_,
                                 at::TensorOptions().dtype(at::kLong).device(all.device()));
  return all.index_select(2, head.floor_divide(per_group));
}

// rms_norm(y) * weight * silu(z), the statistics over all channels of a group, wherever they are.
Tensor HydraMixer::normalised(const Tensor& y_BTHP, const Tensor& z_BTE) const {
  const auto acc = accumulate_dtype(y_BTHP.scalar_type());
  const int64_t per_group = c_.heads() / c_.norm_groups;
  const Tensor y = y_BTHP.to(acc);
  const Tensor squares = y.square().sum(-1);  // [B,T,H]
  Tensor sums;                                // of each head's group: [B,T,H] or [B,T,1]
  if (c_.norm_groups == 1) {
    sums = tp().all_reduce(squares.sum(-1, true));
  } else if (heads_ % per_group == 0) {
    sums = squares.unflatten(-1, {heads_ / per_group, per_group})
               .sum(-1)
               .repeat_interleave(per_group, -1);
  } else {
    const Tensor group = at::arange(first_head_, first_head_ + heads_,
                                    at::TensorOptions().dtype(at::kLong).device(y.device()))
                             .floor_divide(per_group);
    const Tensor none = at::zeros({y.size(0), y.size(1), c_.norm_groups}, squares.options());
    sums = tp().all_reduce(none.index_add(-1, group, squares)).index_select(-1, group);
  }
  const double width = static_cast<double>(per_group * c_.headdim);
  const Tensor rstd = (sums / width + hydra_mixer_detail::kNormEps).rsqrt().unsqueeze(-1);
  const Tensor v = (y * rstd).flatten(2) * norm_E_.to(acc) * at::silu(z_BTE.to(acc));
  return v.to(y_BTHP.scalar_type());
}

Tensor HydraMixer::forward(const Tensor& u_BTD, const Batch& batch) {
  using ops::Padding;
  const Sight seen = sight(batch);
  Tensor u = u_BTD;
  if (!c_.mask_pad && batch.segments.defined()) {
    u = u * batch.segments.ge(0).unsqueeze(-1).to(u.scalar_type());
  }
  const Tensor z_BTE = z_(u);
  const Tensor x_BTE =
      ops::depthwise_conv(x_(u), conv_x_, conv_x_bias_, Padding::Same, true, seen.conv_BT).y;
  const Tensor bc_BTK =
      ops::depthwise_conv(bc_(u), conv_bc_, conv_bc_bias_, Padding::Same, true, seen.conv_BT).y;
  const Tensor dt = step_sizes(dt_(u), seen);
  const auto acc = dt.scalar_type();
  // Each rank's channels give a part of the diagonal of all heads.
  const Tensor delta_BTH = tp().reduce_scatter(delta_(x_BTE).to(acc), 2) + D_H_.to(acc);
  const Tensor y_BTHP = ops::quasiseparable(
      x_BTE.unflatten(-1, {heads_, c_.headdim}), -A_log_H_.to(acc).exp(),
      {dt.select(2, 0), keys_of(bc_BTK, 0), keys_of(bc_BTK, 1)},
      {dt.select(2, 1), keys_of(bc_BTK, 2), keys_of(bc_BTK, 3)}, delta_BTH, seen.scan_BT, init_HPN_,
      std::min(c_.chunk_size, hydra_mixer_detail::kMostChunk));
  return out_(normalised(y_BTHP, z_BTE));
}

}  // namespace strata
