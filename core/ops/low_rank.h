#pragma once
// Matrices as products of two thin ones: W [out, in] near A [out, k] B [k, in], y = A (B x).
// Called by the converters and by `strata ckpt compress`; the layer itself is two ordinary linears
// (parallel/nn/structured_linear.h).
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace strata::ops {

// Of a matrix, decreasing; computed in fp64 (min(out, in) of them).
std::vector<double> singular_values(const Tensor& matrix);

struct LowRankFactors {
  Tensor A_OK, B_KI;
  double squared_error = 0;  // |W - A B|^2: the sum of the squares of the values left out
};
// The nearest matrix of rank k (Eckart, Young 1936), its singular values shared evenly:
// A = U_k sqrt(S_k), B = sqrt(S_k) V_k^T. 1 <= k <= min(out, in). fp64 inside; factors in the dtype
// of W.
LowRankFactors low_rank_factors(const Tensor& W_OI, int64_t k);

}  // namespace strata::ops
