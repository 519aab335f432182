#pragma once
// Products of the matrices that update rules work on: whole logical matrices, whose shapes do not
// depend on the layout of the run.
#include "core/ops/tile_product.h"
#include "core/tensor.h"

namespace strata {

// a [M, K] b [K, N], also transposed views: on the processor's matrix unit where that gains
// (core/ops/tile_product.h), else core/ops/matrix_product.h. The bits depend on the shapes alone
// (and on the processor), not on threads.
Tensor large_product(const Tensor& a, const Tensor& b);
// Into `to` [M, N], whose rows are dense and which is neither a nor b; added to what is there with
// `accumulate`.
void large_product_out(const Tensor& to, const Tensor& a, const Tensor& b, bool accumulate = false);

}  // namespace strata
