#pragma once
// CPU kernels of dropout masks: many blocks of the counter-based generator at once, the words equal
// to Rng::dropout_word.
#include <cstdint>

#include "core/ops/dropout.h"
#include "core/rng.h"

namespace strata::ops::dropout_cpu {

// Words below it are dropped: floor(prob * 2^32), prob in [0, 1).
uint32_t threshold(double prob);

// out[e] = 1 / (1 - prob) where element first + e is kept, else 0. S float or double.
template <class S>
void keep_factors(const Rng& rng, uint64_t first, int64_t count, uint32_t step, double prob,
                  S* out);

// x times the factors of its elements, rounded once; the result is contiguous.
Tensor apply(const Tensor& x_BTF, double prob, const DropoutKey& key);

}  // namespace strata::ops::dropout_cpu
