#include "launch/hidden_states.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/text.h"

namespace strata {

Tensor matrix_nuclear_norms(const Tensor& x_BTD, Communicator* tokens) {
  const auto over_tokens = [&](Tensor sum) {
    sum = sum.contiguous();
    if (tokens) tokens->all_reduce(sum, ReduceOp::Sum).wait_host();
    return sum;
  };
  const Tensor x = x_BTD.to(at::kDouble);
  const int64_t T = x.size(1) * (tokens ? tokens->size() : 1), D = x.size(2);
  const Tensor centred = x - over_tokens(x.sum(1)).unsqueeze(1) / static_cast<double>(T);
  const Tensor length = centred.norm(2, -1, true);
  // A token that is the mean itself has no direction.
  const Tensor rows = centred / length.masked_fill(length == 0, 1.0);
  const Tensor columns = over_tokens(rows.square().sum(1)).sqrt();
  return std::get<0>(columns.sort(-1, true)).narrow(1, 0, std::min(T, D)).sum(-1);
}

HiddenStates::HiddenStates(ParallelManager& model, bool norms) : model_(model), norms_(norms) {
  const auto layers = static_cast<size_t>(model.spec().layer_count());
  sums_.resize(layers);
  rows_.resize(layers);
  for (const ParamMeta& meta : parameter_metas(model.spec())) {
    const std::string ending = ".static_alpha";
    if (!ends_with(meta.name, ending)) continue;
    number_[meta.name.substr(0, meta.name.size() - ending.size())] = connections_.size();
    connections_.push_back(meta.name);
  }
  mixing_.resize(connections_.size());
}

void HiddenStates::layer_output(int layer, const Tensor& y, const Batch& batch,
                                const ParallelLayout& layout) {
  if (!norms_) return;
  const bool cut = layout.strategy().sequence_parallel && layout.tp_size() > 1;
  const Tensor values = matrix_nuclear_norms(y, cut ? &layout.tp() : nullptr);
  tokens_ = y.size(1) * (cut ? layout.tp_size() : 1);
  if (layout.tp_index() != 0) return;  // all of a tp group know the same
  // Rows without a label only fill up the last group.
  const Tensor counted = batch.labels.ne(kIgnoreLabel).any(1).to(at::kDouble).to(values.device());
  sums_[static_cast<size_t>(layer)] += (values * counted).sum().item<double>();
  rows_[static_cast<size_t>(layer)] += counted.sum().item<double>();
}

void HiddenStates::shown(const std::string& module, const std::string& what, const Tensor& value) {
  const auto found = number_.find(module);
  if (what != "mix" || found == number_.end()) return;
  streams_ = value.size(-1);
  const Tensor mix = value.to(at::kDouble).reshape({-1, streams_, streams_});
  Mixing& m = mixing_[found->second];
  m.sum = m.sum.defined() ? m.sum + mix.sum(0) : mix.sum(0);
  m.tokens += static_cast<double>(mix.size(0));
  m.gap = std::max({m.gap, (mix.sum(-1) - 1.0).abs().max().item<double>(),
                    (mix.sum(-2) - 1.0).abs().max().item<double>()});
}

std::vector<LayerNuclearNorm> HiddenStates::norms() {
  const auto layers = static_cast<int64_t>(sums_.size());
  Tensor totals = at::zeros({layers, 2}, at::TensorOptions().dtype(at::kDouble));
  for (int64_t l = 0; l < layers; ++l) {
    totals[l][0] = sums_[static_cast<size_t>(l)];
    totals[l][1] = rows_[static_cast<size_t>(l)];
  }
  model_.pool().job().all_reduce(totals, ReduceOp::Sum).wait_host();
  std::vector<LayerNuclearNorm> out;
  for (int64_t l = 0; l < layers; ++l) {
    const double rows = totals[l][1].item<double>();
    if (rows == 0) continue;
    const double norm = totals[l][0].item<double>() / rows;
    out.push_back({model_.spec().layer_name(static_cast<int>(l)), norm,
                   tokens_ > 0 ? norm / static_cast<double>(tokens_) : 0});
  }
  return out;
}

std::optional<StreamReport> HiddenStates::streams() {
  if (connections_.empty()) return {};
  StreamReport report;
  // Stages know their own connections: sums of the others are 0 there.
  const auto count = static_cast<int64_t>(mixing_.size());
  const auto options = at::TensorOptions().dtype(at::kDouble);
  Tensor n = at::zeros({1}, options), gap = at::zeros({1}, options);
  n.fill_(static_cast<double>(streams_));
  for (const Mixing& m : mixing_) gap.fill_(std::max(gap.item<double>(), m.gap));
  Communicator& job = model_.pool().job();
  job.all_reduce(n, ReduceOp::Max).wait_host();
  job.all_reduce(gap, ReduceOp::Max).wait_host();
  streams_ = static_cast<int64_t>(n.item<double>());
  Tensor sums = at::zeros({count, streams_, streams_}, options),
         tokens = at::zeros({count}, options);
  for (int64_t k = 0; k < count; ++k) {
    const Mixing& m = mixing_[static_cast<size_t>(k)];
    if (!m.sum.defined()) continue;
    sums[k].copy_(m.sum);
    tokens[k] = m.tokens;
  }
  job.all_reduce(sums, ReduceOp::Sum).wait_host();
  job.all_reduce(tokens, ReduceOp::Sum).wait_host();
  Tensor product = at::eye(streams_, options);
  double diagonal = 0;
  for (int64_t k = 0; k < count; ++k) {
    const Tensor mean = sums[k] / tokens[k].clamp_min(1.0);
    diagonal += mean.diagonal().mean().item<double>() / static_cast<double>(count);
    product = at::matmul(product, mean);
  }
  report.sum_gap = gap.item<double>();
  report.diagonal = diagonal;
  // Rows of a matrix are sources, columns targets.
  report.forward_gain = product.abs().sum(0).max().item<double>();
  report.backward_gain = product.abs().sum(1).max().item<double>();
  return report;
}

}  // namespace strata
