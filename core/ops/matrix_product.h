#pragma once
// Products of matrices that are too large for a cache. fp32 and fp64 on the CPU are cut into blocks
// for block_gemm.h, whose bits depend on the shapes alone and which does not depend on what
// LibTorch was built with; everything else goes to LibTorch.
#include "core/tensor.h"

namespace strata::ops {

// a [M, K] b [K, N]; transposed views are read as they lie.
Tensor matrix_product(const Tensor& a, const Tensor& b);
// Into `to` [M, N], whose rows are dense: a whole matrix or columns of a wider one; added to what
// is there with `accumulate`.
void matrix_product_out(const Tensor& to, const Tensor& a, const Tensor& b,
                        bool accumulate = false);
// One product per matrix: a [L, M, K] b [L, K, N].
Tensor matrix_products(const Tensor& a, const Tensor& b);

}  // namespace strata::ops
