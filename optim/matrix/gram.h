#pragma once
#include "core/tensor.h"

namespace strata {

// a a^T [M, M] for a [M, K], fp32 or fp64; transposed views are read as they lie, so gram(a.t()) is
// a^T a. Only blocks on and below the diagonal are multiplied, the others are their mirror images:
// about half of the work of a product.
Tensor gram(const Tensor& a);

}  // namespace strata
