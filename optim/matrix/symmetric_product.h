#pragma once
// Products that are known to be symmetric, for about half of the work: X X^T, or two symmetric
// matrices that commute (polynomials of one matrix).
#include "core/tensor.h"

namespace strata {

// to [m, m] = a b, or to + a b where `accumulate` (`to` being symmetric). a [m, k], b [k, m], also
// transposed views; `to` is contiguous and neither a nor b.
//
// fp32 and fp64 on the CPU: blocks on and below the diagonal are computed and mirrored, large fp32
// ones on the processor's matrix unit where it has one (core/ops/tile_product.h); the bits depend
// on the shapes alone, not on threads. Other types and devices: LibTorch's whole product.
void symmetric_product_out(const Tensor& to, const Tensor& a, const Tensor& b,
                           bool accumulate = false);
Tensor symmetric_product(const Tensor& a, const Tensor& b);

}  // namespace strata
