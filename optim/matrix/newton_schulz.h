#pragma once
// Orthogonalisation of a matrix: U V^T of X = U S V^T, nearly, by products alone (Newton-Schulz).
//
//   X <- X / (pre |X|_F + eps)      or / max(pre |X|_F, eps)
//   for each (a, b, c):   A = X X^T    P = a I + b A + c A A    X <- P X
//
// which takes every singular value x to a x + b x^3 + c x^5 (newton_schulz_sets.h). X is transposed
// first where it has more rows than columns. On CPUs in fp32 and fp64
//   - A and A A are symmetric products (symmetric_product.h);
//   - matrices at least twice as long as wide iterate R = X X^T instead, all m x m, symmetric and
//     commuting:    P = a I + b R + c R R    Q <- Q P    R <- P R P    and at last X <- Q X
//     with a restart (X <- Q X, R = X X^T, Q = I) before the third step and every third after it,
//     because R knows singular values only to the root of the rounding error (Dao-AILab,
//     gram-newton-schulz).
// 16 bits on CPUs: the plain form, with halves of the symmetric products; x with more rows than
// columns as it lies, X <- X P.
#include "core/tensor.h"
#include "optim/matrix/newton_schulz_sets.h"

namespace strata {

// x [rows, cols] in fp32 or fp64. The result has x's shape and the type `compute`; zero gives zero,
// 1 x N gives f(1) x / |x|. The norm is summed in fp64. compute: the type of the products; a 16-bit
// type is taken after the division by the norm, so that nothing over- or underflows. The bits
// depend on x alone, not on threads.
Tensor newton_schulz(const Tensor& x, const NewtonSchulz& how, at::ScalarType compute);

// A batch x [L, rows, cols], in the plain form and LibTorch's batched products: for devices, and
// the oracle of the above.
Tensor newton_schulz_batch(const Tensor& x, const NewtonSchulz& how, at::ScalarType compute);

// Whether m x n matrices iterate R in fp32 and fp64, and the steps before which X X^T is formed
// then.
bool takes_newton_schulz_gram(int64_t m, int64_t n, size_t steps);
bool starts_newton_schulz_gram(size_t step);

// Floating-point operations of one matrix, as carried out on a CPU in fp32; those of each rank
// where the longer side lies in so many slabs (newton_schulz_slabs.h).
double newton_schulz_flops(int64_t rows, int64_t cols, const NewtonSchulz& how, int slabs = 1);

}  // namespace strata
