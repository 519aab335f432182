#pragma once
// Sharded values as logical tensors on rank 0, whatever the layout.
#include <functional>
#include <map>
#include <string>

#include "parallel/engine/manager.h"

namespace strata {

// Collective over the job. value(slice): something flat over slice.update (its gradient, its value,
// a state of the optimizer). Rank 0 gets the whole of each trainable parameter in fp64, by
// parameter name; others get nothing.
std::map<std::string, Tensor> gather_logical(ParallelManager& model,
                                             const std::function<Tensor(const OwnedSlice&)>& value);

// Collective over the job. Square root of the sum of squares of all trainable parameters, on every
// rank.
double parameter_norm(ParallelManager& model);

}  // namespace strata
