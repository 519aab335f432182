#pragma once
// Sums over matrices X = [X_1 ... X_P] that lie in slabs on several ranks
// (optimizers-distributed.md 2.8). All functions are collective over the ranks, which pass slabs of
// the same matrices in the same order; `sum` adds up a contiguous tensor over them and is called
// once. Every rank gets the same bits.
#include <functional>
#include <vector>

#include "core/tensor.h"

namespace strata {

// Sum of the squares of all elements of each matrix.
std::vector<double> slab_squares(const std::vector<Tensor>& slabs,
                                 const std::function<void(const Tensor&)>& sum);

// X X^T [m, m] of each matrix, from this rank's X_r [m, n_r]. Slabs of 16 bits are multiplied in
// their type and summed in fp32, in which the result is.
std::vector<Tensor> slab_grams(const std::vector<Tensor>& slabs,
                               const std::function<void(const Tensor&)>& sum);

}  // namespace strata
