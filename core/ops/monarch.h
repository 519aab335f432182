#pragma once
// Structured matrices instead of dense weights: Monarch (two block-diagonal factors with a
// permutation between and after them) and a single block-diagonal factor.
//
// Monarch, w1 [K, Q, P] (K blocks P -> Q), w2 [L, S, R] (L blocks R -> S), K Q = L R = mid:
//
//   a[kappa Q + eta] = sum_i w1[kappa, eta, i] x[kappa P + i]
//   y[sigma L + lambda] = sum_rho w2[lambda, sigma, rho] a[rho L + lambda]
//
// The first factor reads contiguous features; the second reads the intermediates that are equal
// modulo L and writes the outputs that are. x is padded with zeros to K P features, y cut to
// `out_features`. One product of ordinary matrices per block; only the intermediates and the output
// are permuted, in kernels here. Kept for the backward: x and the permuted intermediates.
//
// Products in the dtype of x; factors held wider are cast at use. Called by parallel/nn/module.h
// (Linear) and by the converters.
#include <cstdint>

#include "core/tensor.h"

namespace strata::ops {

// x [.., n <= K P] -> [.., out_features <= L S]
Tensor monarch(const Tensor& x, const Tensor& w1_KQP, const Tensor& w2_LSR, int64_t out_features);
Tensor monarch_composite(const Tensor& x, const Tensor& w1_KQP, const Tensor& w2_LSR,
                         int64_t out_features);

// y[kappa S + sigma] = sum_i w[kappa, sigma, i] x[kappa P + i]; w [K, S, P].
Tensor block_diagonal(const Tensor& x, const Tensor& w_KSP, int64_t out_features);
Tensor block_diagonal_composite(const Tensor& x, const Tensor& w_KSP, int64_t out_features);

// Features (group, member) in the order (member, group), after padding to whole groups: the input
// of a shuffled block-diagonal layer. `groups` of equal size.
Tensor shuffle_features(const Tensor& x, int64_t groups, int64_t padded);

// The dense matrices [out, in] that these compute. No autograd.
Tensor monarch_to_dense(const Tensor& w1_KQP, const Tensor& w2_LSR, int64_t out_features,
                        int64_t in_features);
Tensor block_diagonal_to_dense(const Tensor& w_KSP, int64_t out_features, int64_t in_features,
                               bool shuffled = false);

struct MonarchFactors {
  Tensor w1_KQP, w2_LSR;
  double squared_error = 0;  // |dense - monarch|^2: the singular values left out
};
// The nearest Monarch matrix to dense [out, in]: each of the L x K sub-matrices (rows equal modulo
// L, contiguous columns) is replaced by its best approximation of the rank that its intermediates
// allow. `blocks` = K = L. fp64 inside; factors in the dtype of `dense`.
MonarchFactors project_to_monarch(const Tensor& dense_OI, int64_t blocks);
// With K blocks of Q rows and L blocks, K Q = L R; padded shapes follow from these.
MonarchFactors project_to_monarch(const Tensor& dense_OI, int64_t K, int64_t Q, int64_t L);
// The nearest block-diagonal matrix: the blocks themselves.
Tensor project_to_block_diagonal(const Tensor& dense_OI, int64_t blocks, bool shuffled = false);

// Sizes of the factors of a layer in -> out with `blocks` blocks.
struct MonarchShape {
  int64_t blocks, in_block, out_block;  // padded: blocks * block
  int64_t middle_block;                 // min(in_block, out_block)
};
MonarchShape monarch_shape(int64_t in, int64_t out, int64_t blocks);

}  // namespace strata::ops
