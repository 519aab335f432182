#pragma once
// Elementwise work on whole matrices, in one pass over memory each on CPUs.
#include "core/tensor.h"

namespace strata {

// m <- mu m + fresh g, and then mu m + fresh g (nesterov), or m itself. m, g: of one shape and
// type.
Tensor update_momentum(Tensor& m, const Tensor& g, double mu, double fresh, bool nesterov);

// x scale, rounded once to `type`; of the shape of x, dense.
Tensor scaled_to(const Tensor& x, double scale, at::ScalarType type);

// w <- (keep_before w - step d) keep_after, and `rounded`, if defined, a copy of w in its type. d
// of w's shape, in any type.
void move_weights(Tensor& w, const Tensor& d, double step, double keep_before, double keep_after,
                  const Tensor& rounded);

}  // namespace strata
