#include "parallel/nn/bit_linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {

BitLinear::BitLinear(int64_t in, int64_t out, ShardSpec shard, const BitLinearOptions& options,
                     const ParallelLayout& layout)
    : Module(layout), in_(in), out_(out), options_(options), shard_(std::move(shard)) {
  weight_ = param("weight", {out, in}, shard_, options.init,
                  {.kind = options.kind, .view = options.view});
  const bool by_input = shard_.cut() && shard_.dim == 1;
  gain_ = param("norm.weight", {in}, by_input ? split(0, shard_.unit) : replicated(), Init::ones(),
                {.fp32 = true, .weight_decay = false});
  if (by_input && layout.tp_size() > 1) features_ = features_over_tp(in, layout);
}

const ops::TernaryCodes& BitLinear::codes() const {
  STRATA_CHECK(fresh_, cat(full_name(), ": its layer does not watch its weights"));
  return codes_;
}

Tensor BitLinear::operator()(const Tensor& x) const {
  return ops::bit_linear(x, gain_, weight_, codes(), options_.rows, features_);
}

void refresh_codes(std::span<BitLinear* const> linears, const ParallelLayout& layout) {
  std::vector<double> own;
  for (const BitLinear* linear : linears) {
    const Shape logical{linear->out_, linear->in_};
    // What several ranks hold is counted by all of them.
    const int holders = replicas(linear->shard_, logical, layout.tp_size());
    own.push_back(ops::absolute_sum(linear->weight_) / holders);
  }
  Tensor sums =
      at::zeros({static_cast<int64_t>(own.size())}, at::TensorOptions().dtype(at::kDouble));
  std::copy(own.begin(), own.end(), sums.mutable_data_ptr<double>());
  sums = sums.to(layout.device());
  layout.tp().all_reduce(sums, ReduceOp::Sum, layout.site(SiteOp::RowSums)).wait();
  sums = sums.to(at::kCPU);
  for (size_t i = 0; i < linears.size(); ++i) {
    BitLinear& linear = *linears[i];
    const double elements = static_cast<double>(linear.in_) * static_cast<double>(linear.out_);
    if (linear.options_.ternary) {
      linear.codes_ =
          ops::ternary_codes(linear.weight_, sums.const_data_ptr<double>()[i] / elements);
    }
    linear.fresh_ = true;
  }
}

ops::FeatureGroup features_over_tp(int64_t width, const ParallelLayout& layout) {
  ops::FeatureGroup group;
  group.width = width;
  group.statistics = [layout](Tensor& sums_N, Tensor& maxima_N) {
    const Tensor own = at::stack({sums_N, maxima_N}).unsqueeze(0).contiguous();
    const int64_t ranks = layout.tp_size();
    Tensor all = at::empty({ranks, 2, sums_N.numel()}, own.options());
    layout.tp().all_gather(all, own, layout.site(SiteOp::RowSums)).wait();
    sums_N = all.select(1, 0).sum(0);  // in rank order, alike everywhere
    maxima_N = all.select(1, 1).amax(0);
  };
  group.sum = [layout](Tensor& sums_N) {
    sums_N = sums_N.contiguous();
    layout.tp().all_reduce(sums_N, ReduceOp::Sum, layout.site(SiteOp::RowSums)).wait();
  };
  return group;
}

}  // namespace strata
