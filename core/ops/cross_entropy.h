#pragma once
// The per-chunk arithmetic of a softmax cross entropy whose vocabulary may be cut over ranks
// (parallel-runtime.md 3.6). The collective steps between these functions are done by
// parallel/nn/head.h. N tokens, V vocabulary columns here.
#include "core/tensor.h"

namespace strata::ops {

struct CrossEntropyOptions {
  double label_smoothing = 0;  // alpha over the whole vocabulary
  double z_loss = 0;           // zeta * lse^2
};

// Row maxima [N], accumulate dtype; -inf when V is 0.
Tensor row_max(const Tensor& logits_NV);

// [3, N] accumulate dtype: sum exp(l - m); sum (l - m), filled only with smoothing; l[target] - m
// where the target lies in [first_column, first_column + V), else 0. Ignored targets contribute 0
// in row 2.
Tensor exp_sums(const Tensor& logits_NV, const Tensor& max_N, const Tensor& targets_N,
                int64_t first_column, bool smoothing);

// loss [N] from the sums over all ranks; 0 for ignored targets. vocabulary: number of columns of
// the whole model.
Tensor token_losses(const Tensor& sums_3N, const Tensor& max_N, const Tensor& targets_N,
                    int64_t vocabulary, const CrossEntropyOptions& options);

// Overwrites logits with d(sum of losses)/d(logits), in their dtype; rows of ignored targets become
// 0.
void cross_entropy_backward_(const Tensor& logits_NV, const Tensor& sums_3N, const Tensor& max_N,
                             const Tensor& targets_N, int64_t first_column, int64_t vocabulary,
                             const CrossEntropyOptions& options);

}  // namespace strata::ops
