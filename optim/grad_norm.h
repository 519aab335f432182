#pragma once
// Global gradient norm without double counting: every logical element belongs to exactly one rank's
// norm range, summed in fp64 over fixed blocks so that the result does not depend on the number of
// threads.
#include <span>

#include "parallel/engine/manager.h"

namespace strata {

struct NormShare {
  double sum_of_squares = 0;
  double elements =
      0;  // counted by this rank; the job's sum must equal the model's trainable elements
};
NormShare norm_share(std::span<const OwnedSlice> slices);

}  // namespace strata
