#pragma once
// CPU kernels of cross_entropy.h.
#include "core/ops/cross_entropy.h"

namespace strata::ops::cross_entropy_cpu {

Tensor row_max(const Tensor& logits_NV);
Tensor exp_sums(const Tensor& logits_NV, const Tensor& max_N, const Tensor& targets_N,
                int64_t first_column, bool smoothing);
void backward_(const Tensor& logits_NV, const Tensor& sums_3N, const Tensor& max_N,
               const Tensor& targets_N, int64_t first_column, int64_t vocabulary,
               const CrossEntropyOptions& options);

}  // namespace strata::ops::cross_entropy_cpu
