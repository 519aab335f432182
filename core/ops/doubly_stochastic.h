#pragma once
// Doubly stochastic n x n matrices, one per token: rows and columns sum to 1, no entry is negative.
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata::ops {

// All permutations of 0 .. n-1 in lexicographic order, the identity first. n <= 6.
std::vector<std::vector<int64_t>> permutations(int64_t n);

// A = sum_k weights_k P_k with P_k[i, pi_k(i)] = 1: exactly doubly stochastic for weights that sum
// to 1 (Birkhoff; mHC-lite). weights [..., n!] -> [..., n, n].
Tensor permutation_mixture(const Tensor& weights, int64_t n);

// Which side is normalised first in an iteration, and hence which is exact at the end: the last.
enum class SinkhornOrder { RowsFirst, ColumnsFirst };

// Sinkhorn and Knopp's iteration in the log domain on exp(logits), [..., n, n] -> the same shape.
// Rows: sums over the last dimension. Only the logits are kept for the backward, which runs the
// iterations again.
Tensor sinkhorn(const Tensor& logits, int64_t iterations, SinkhornOrder order);

}  // namespace strata::ops
