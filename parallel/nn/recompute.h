#pragma once
// Activations that are given up in the forward pass and computed again in the backward.
#include <functional>

#include "core/tensor.h"

namespace strata {

// y = f(x), of which only x is kept. The backward calls f again, now with a graph, and goes back
// through it: gradients of parameters used by f arrive in their .grad as without this, and all are
// equal to the last bit if f gives the same values each time. Where gradients are off (evaluation)
// it is f(x). Collectives within f happen twice, in the same order on all ranks.
Tensor recomputed(const Tensor& x, std::function<Tensor(const Tensor&)> f);

}  // namespace strata
