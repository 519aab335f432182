#include "models/parts/residual.h"

#include <ATen/TensorOperators.h>

#include "core/config/visitor.h"
#include "core/ops/streams.h"
#include "core/text.h"
#include "models/parts/hyper_connection.h"

namespace strata {

void ResidualConfig::visit(ConfigVisitor& v) {
  v.field("residual", kind, one_of({"plain", "mhc_lite", "mhc", "hc"}),
          "how sub-layers join the residual stream");
  v.field("residual_streams", streams, between(2, 16), "number of residual streams");
  v.field("residual_reduce", reduce, one_of({"norm_then_sum", "sum_then_norm", "mean_then_norm"}),
          "how the head makes one stream of them");
  v.field("residual_init_std", init_std, non_negative(),
          "standard deviation of the initial weights that make coefficients depend on the token");
  v.field("residual_identity_offset", identity_offset, any_number(),
          "initial mixing logit of everything but the identity (mhc_lite, mhc)");
  v.field("residual_sinkhorn_iterations", sinkhorn_iterations, between(1, 1000),
          "iterations that make the mixing matrix doubly stochastic (mhc)");
  v.field(
      "residual_sinkhorn_order", sinkhorn_order, one_of({"paper", "reference"}),
      "what is exact after the last iteration: weights that arrive at a stream (paper) or leave "
      "one (reference)");
  v.field("residual_lr_scale", lr_scale, non_negative(),
          "factor of the learning rate for the coefficients' parameters");
  v.field("residual_weight_decay", weight_decay, "weight decay of the coefficients' parameters");
  // n! permutations; 720 for six streams.
  if (kind == "mhc_lite" && streams > 6) {
    v.problem("residual_streams", cat(streams), "integer in [2, 6] with residual = mhc_lite",
              " (the mixture is over all n! permutations; mhc takes more streams)");
  }
}

StreamReduce ResidualConfig::head_reduce() const {
  if (plain()) return {};
  using Order = StreamReduce::Order;
  return {streams, reduce == "norm_then_sum"   ? Order::NormThenSum
                   : reduce == "sum_then_norm" ? Order::SumThenNorm
                                               : Order::MeanThenNorm};
}

double ResidualConfig::flops_per_token(int64_t width) const {
  if (plain()) return 0;
  const auto n = static_cast<double>(streams), C = static_cast<double>(width);
  double permutations = 1;
  for (int64_t k = 2; k <= streams; ++k) permutations *= static_cast<double>(k);
  const double columns = kind == "mhc_lite" ? 2 * n + permutations
                         : kind == "mhc"    ? 2 * n + n * n
                                            : 2 + n;
  // Projection, read, mix and write.
  return 2 * n * C * columns + 2 * n * C + 2 * n * n * C + 2 * n * C;
}

Residual::Residual(const ResidualConfig& config, int64_t width, int sub_layer,
                   const ParallelLayout& layout)
    : Module(layout), config_(config), first_(sub_layer == 0) {
  if (config.plain()) return;
  connection_ = std::make_unique<HyperConnection>(
      config, width, sub_layer, [&](const std::string& name, Shape shape, Init init) {
        return param(name, std::move(shape), replicated(), std::move(init),
                     {.kind = ParamKind::Other,
                      .fp32 = true,
                      .weight_decay = config.weight_decay,
                      .lr_scale = config.lr_scale});
      });
}

Residual::~Residual() = default;

Tensor Residual::operator()(const Tensor& x, const Batch& batch,
                            const std::function<Tensor(const Tensor&)>& branch) {
  if (!connection_) return x + branch(x);
  const Tensor streams = first_ ? ops::expand_streams(x, config_.streams) : x;
  const StreamCoefficients c = connection_->coefficients(streams);
  show(batch, "mix", c.mix_BTnn);
  const Tensor y = branch(ops::read_streams(streams, c.read_BTn));
  return ops::write_streams(streams, y, c.mix_BTnn, c.write_BTn);
}

}  // namespace strata
