#pragma once
// The orthogonalisation of newton_schulz.h for matrices that lie in slabs of their longer side on
// several ranks: with X = [X_1 ... X_P] the small X X^T is the sum of all X_r X_r^T, and a
// polynomial P of it takes each slab for itself, X_r <- P X_r (optimizers-distributed.md 2.8). What
// newton_schulz does with one Gram matrix for several steps is done here too, so that a matrix at
// least twice as long as wide needs two sums of m x m for five steps, and others one in every step.
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "optim/matrix/newton_schulz_sets.h"

namespace strata {

struct Slab {
  Tensor x;            // [m, this rank's part of n], fp32 or fp64; m <= n
  int64_t length = 0;  // n, over all ranks
};

// In place of each x what newton_schulz gives of the whole matrix. compute as there; 16-bit types
// are summed in fp32. sum: adds up a contiguous tensor over the ranks, which call this with the
// same matrices in the same order; called once for the norms and then once a step, for all matrices
// that need it together.
void newton_schulz_slabs(std::span<Slab> slabs, const NewtonSchulz& how, at::ScalarType compute,
                         const std::function<void(const Tensor&)>& sum);

// Elements that are summed for one matrix.
int64_t newton_schulz_slabs_elements(int64_t rows, int64_t cols, const NewtonSchulz& how);

}  // namespace strata
