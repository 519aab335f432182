#pragma once
// Vectors of length one over the last dimension.
#include "core/tensor.h"

namespace strata::ops {

// y = scale x / sqrt(sum(x^2) + 1e-6); zero stays zero, with a finite gradient. Statistics in the
// accumulate dtype, output dense in the dtype of x. Queries and keys of the delta rules.
Tensor l2_normalise(const Tensor& x, double scale = 1.0);
Tensor l2_normalise_composite(const Tensor& x, double scale = 1.0);

}  // namespace strata::ops
