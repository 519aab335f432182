#include "models/matmul_free/block.h"

#include <cmath>

#include "core/ops/activation.h"
#include "core/ops/gated_scan.h"

namespace strata {
namespace matmul_free_detail {

// Xavier-uniform with gain 2^-2.5, for every linear of the mixer.
BitLinearOptions mixer_options(const MatmulFreeConfig& c, int64_t in, int64_t out) {
  const double limit = std::pow(2.0, -2.5) * std::sqrt(6.0 / static_cast<double>(in + out));
  return {.init = Init::uniform(-limit, limit), .rows = c.rows(), .ternary = c.ternary};
}

BitLinearOptions mlp_options(const MatmulFreeConfig& c, double std) {
  return {.init = Init::normal(std), .rows = c.rows(), .ternary = c.ternary};
}

}  // namespace matmul_free_detail

MatmulFreeMixer::MatmulFreeMixer(const MatmulFreeConfig& c, int block, const ParallelLayout& layout)
    : Region(layout), c_(c), block_(block) {
  using namespace matmul_free_detail;
  const int64_t D = c.hidden_size, E = c.channels();
  const auto in = mixer_options(c, D, E);
  i_ = add<BitLinear>("i_proj", D, E, split_out(), in, layout);
  f_ = add<BitLinear>("f_proj", D, E, split_out(), in, layout);
  g_ = add<BitLinear>("g_proj", D, E, split_out(), in, layout);
  g_norm_E_ = param("g_norm.weight", {E}, strata::split(0), Init::ones(),
                    {.fp32 = true, .weight_decay = false});
  o_ = add<BitLinear>("o_proj", E, D, split_in(), mixer_options(c, E, D), layout);
  // The first block has no bound; it holds the parameter only where nobody else does.
  if (c.use_lower_bound && (block > 0 || c.num_hidden_layers == 1)) {
    theta_LE_ =
        param("model.lower_bounds", {c.num_hidden_layers, E}, replicated(), Init::zeros(),
              {.kind = ParamKind::Other, .fp32 = true, .weight_decay = false, .model_wide = true});
  }
  if (layout.tp_size() > 1) channels_ = features_over_tp(E, layout);
}

Tensor MatmulFreeMixer::bound() const {
  if (!c_.use_lower_bound || block_ == 0) return {};
  const int64_t own = c_.channels() / layout().tp_size();
  return ops::gate_bound(theta_LE_.narrow(1, own * layout().tp_index(), own), block_);
}

Tensor MatmulFreeMixer::forward(const Tensor& x_BTD, const Batch& batch) {
  const auto scan =
      ops::gated_scan((*i_)(x_BTD), (*f_)(x_BTD), bound(), batch.segments, recall(batch, "state"));
  remember(batch, "state", scan.state_BD);
  const Tensor g_BTE = (*g_)(x_BTD);
  const auto norm = [&](const Tensor& x) {
    return ops::rms_norm_split(x, g_norm_E_, c_.rms_norm_eps, channels_);
  };
  return (*o_)(c_.output_gate == "released" ? ops::swiglu(scan.h_BTD, norm(g_BTE))
                                            : ops::swiglu(g_BTE, norm(scan.h_BTD)));
}

MatmulFreeMlp::MatmulFreeMlp(const MatmulFreeConfig& c, const ParallelLayout& layout)
    : Region(layout) {
  using namespace matmul_free_detail;
  const int64_t D = c.hidden_size, F = c.inner();
  auto up = mlp_options(c, c.initializer_range);
  up.view = MatrixView::Segments;
  gate_ = add<BitLinear>("gate_proj", D, 2 * F, split_out(1, {F, F}), up, layout);
  const double depth = 2.0 * static_cast<double>(c.num_hidden_layers);
  down_ = add<BitLinear>("down_proj", F, D, split_in(),
                         mlp_options(c, c.initializer_range / std::sqrt(depth)), layout);
}

Tensor MatmulFreeMlp::forward(const Tensor& x_BTD, const Batch&) {
  const auto parts = (*gate_)(x_BTD).chunk(2, -1);
  return (*down_)(ops::swiglu(parts[0], parts[1]));
}

MatmulFreeBlock::MatmulFreeBlock(const MatmulFreeConfig& c, int block, const ParallelLayout& layout)
    : Layer(layout) {
  attn_norm_ = rms_norm("attn_norm", c.hidden_size, c.rms_norm_eps);
  attn_ = add<MatmulFreeMixer>("attn", c, block, layout);
  mlp_norm_ = rms_norm("mlp_norm", c.hidden_size, c.rms_norm_eps);
  mlp_ = add<MatmulFreeMlp>("mlp", c, layout);
  attn_residual_ = add<Residual>("hc_attn", c.parts.residual, c.hidden_size, 2 * block, layout);
  mlp_residual_ = add<Residual>("hc_mlp", c.parts.residual, c.hidden_size, 2 * block + 1, layout);
  linears_ = attn_->linears();
  for (BitLinear* linear : mlp_->linears()) linears_.push_back(linear);
}

Tensor MatmulFreeBlock::forward(const Tensor& x_BTD, const Batch& batch) {
  const Tensor h_BTD = (*attn_residual_)(
      x_BTD, batch, [&](const Tensor& u_BTD) { return (*attn_)(attn_norm_(u_BTD), batch); });
  return (*mlp_residual_)(h_BTD, batch,
                          [&](const Tensor& u_BTD) { return (*mlp_)(mlp_norm_(u_BTD), batch); });
}

}  // namespace strata
