#include "core/ops/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "core/batch.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/cross_entropy_cpu.h"

namespace strata::ops {

namespace cross_entropy_detail {

// Index of each token's target within the V columns here, and whether it lies there.
struct LocalTargets {
  Tensor index, here;
};
LocalTargets local_targets(const Tensor& targets_N, int64_t first_column, int64_t V) {
  const Tensor index = targets_N - first_column;
  const Tensor here = (index >= 0).logical_and(index < V).logical_and(targets_N != kIgnoreLabel);
  return {at::where(here, index, at::zeros_like(index)), here};
}

}  // namespace cross_entropy_detail

Tensor row_max(const Tensor& logits_NV) {
  const at::NoGradGuard no_grad;
  if (has_cpu_kernel(logits_NV)) {
    return cross_entropy_cpu::row_max(logits_NV);
  }
  const auto acc = accumulate_dtype(logits_NV.scalar_type());
  if (logits_NV.size(1) == 0) {
    return at::full({logits_NV.size(0)}, -std::numeric_limits<double>::infinity(),
                    logits_NV.options().dtype(acc));
  }
  return logits_NV.amax(1).to(acc);
}

Tensor exp_sums(const Tensor& logits_NV, const Tensor& max_N, const Tensor& targets_N,
                int64_t first_column, bool smoothing) {
  const at::NoGradGuard no_grad;
  if (has_cpu_kernel(logits_NV)) {
    return cross_entropy_cpu::exp_sums(logits_NV, max_N, targets_N, first_column, smoothing);
  }
  const Tensor shifted = logits_NV.to(max_N.scalar_type()) - max_N.unsqueeze(1);
  Tensor target = at::zeros_like(max_N);
  if (logits_NV.size(1) > 0) {
    const auto [index, here] =
        cross_entropy_detail::local_targets(targets_N, first_column, logits_NV.size(1));
    target = at::where(here, shifted.gather(1, index.unsqueeze(1)).squeeze(1), target);
  }
  return at::stack(
      {shifted.exp().sum(1), smoothing ? shifted.sum(1) : at::zeros_like(max_N), target});
}

Tensor token_losses(const Tensor& sums_3N, const Tensor& max_N, const Tensor& targets_N,
                    int64_t vocabulary, const CrossEntropyOptions& options) {
  const at::NoGradGuard no_grad;
  const double alpha = options.label_smoothing;
  const Tensor log_sum = sums_3N[0].log();
  Tensor loss = log_sum - (1 - alpha) * sums_3N[2];
  if (alpha != 0) {
    loss = loss - sums_3N[1] * (alpha / static_cast<double>(vocabulary));
  }
  if (options.z_loss != 0) {
    loss = loss + options.z_loss * (max_N + log_sum).square();
  }
  return at::where(targets_N != kIgnoreLabel, loss, at::zeros_like(loss));
}

void cross_entropy_backward_(const Tensor& logits_NV, const Tensor& sums_3N, const Tensor& max_N,
                             const Tensor& targets_N, int64_t first_column, int64_t vocabulary,
                             const CrossEntropyOptions& options) {
  const at::NoGradGuard no_grad;
  const int64_t V = logits_NV.size(1);
  if (logits_NV.numel() == 0) {
    return;
  }
  if (has_cpu_kernel(logits_NV)) {
    cross_entropy_cpu::backward_(logits_NV, sums_3N, max_N, targets_N, first_column, vocabulary,
                                 options);
    return;
  }
  const double alpha = options.label_smoothing;
  const Tensor sum = sums_3N[0].unsqueeze(1);
  const Tensor lse = max_N.unsqueeze(1) + sum.log();
  Tensor grad = (logits_NV.to(max_N.scalar_type()) - max_N.unsqueeze(1)).exp() / sum *
                (1 + 2 * options.z_loss * lse);
  const auto [index, here] = cross_entropy_detail::local_targets(targets_N, first_column, V);
  grad.scatter_add_(1, index.unsqueeze(1),
                    (here.to(grad.scalar_type()) * (alpha - 1)).unsqueeze(1));
  grad.sub_(alpha / static_cast<double>(vocabulary));
  const Tensor ignored = (targets_N == kIgnoreLabel).unsqueeze(1);
  logits_NV.copy_(grad.masked_fill(ignored, 0));
}

}  // namespace strata::ops
