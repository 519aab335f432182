#pragma once
// The gradient norm to the last bit, whatever the layout (parallel-runtime.md 6): every square is
// cut off at a fixed binary place, and integers are summed, in any order.
//
//   2^e > max |g|     q = g^2 2^(s-2e)     hi += floor(q)     lo += floor((q - floor(q)) 2^30)
//   sum g^2 = (hi + lo 2^-30) 2^(2e-s)     s = 30: no overflow below 2^33 elements; above, smaller
#include <span>

#include "parallel/comm/communicator.h"
#include "parallel/engine/owned_slice.h"

namespace strata {

// Collective over the job: the same on every rank. NaN when some gradient is not finite. elements:
// of the whole model.
double exact_sum_of_squares(std::span<const OwnedSlice> slices, int64_t elements,
                            Communicator& job);

}  // namespace strata
