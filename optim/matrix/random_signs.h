#pragma once
// Vectors that see every direction: for sketches and probes of matrices.
#include "core/rng.h"
#include "core/tensor.h"

namespace strata {

// [rows, cols] of 1 and -1, fp32 on the CPU, from bit i % 32 of word i / 32 of `random`.
Tensor random_signs(int64_t rows, int64_t cols, const Rng& random);

}  // namespace strata
