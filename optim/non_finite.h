#pragma once
// What was not finite in a step that had to be skipped, found when it has happened: one sentence on
// which all ranks agree.
#include <cstdint>
#include <string>

#include "parallel/engine/manager.h"

namespace strata {

struct NonFinite {
  bool loss = false;
  int64_t gradients = 0, parameters = 0;  // gradients that are not finite; trainable parameters
  std::string first, last;                // of those gradients, in the order of the model

  // "the gradient of x is not finite", "the loss and the gradients of 3 of 40 parameters are not
  // finite (first x, last y)"
  std::string text() const;
};

// Collective over the job, after forward_backward. loss: this rank's share. A backward pass spreads
// what is not finite towards the embedding, so it began at `last` or after it.
NonFinite find_non_finite(ParallelManager& model, const StepLoss& loss);

}  // namespace strata
