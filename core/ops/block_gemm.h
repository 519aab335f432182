#pragma once
// Products of small matrices that lie in cache, for kernels that run one head or one block per
// task:
//
//   C[M, N] = op(A)[M, K] op(B)[K, N]      (accumulate: C += ...)
//
// Row-major, leading dimensions in elements; trans_a: A is held as [K, M], trans_b: B is held as
// [N, K]. Runs on the calling thread, allocates nothing. An element's sum goes over k in ascending
// order, in the same steps whatever M, N and its place are: rows of a result do not depend on one
// another.
#include <cstdint>

namespace strata::ops::block {

// T: float or double.
template <class T>
void gemm(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, const T* A, int64_t lda,
          const T* B, int64_t ldb, T* C, int64_t ldc, bool accumulate);

// to[cols, rows] = from[rows, cols] transposed. T also: uint16_t.
template <class T>
void transpose(int64_t rows, int64_t cols, const T* from, int64_t from_stride, T* to,
               int64_t to_stride);

}  // namespace strata::ops::block
