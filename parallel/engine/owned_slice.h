#pragma once
// The unit of optimizers, checkpoints and norms: what of one parameter a rank owns.
#include <functional>

#include "core/tensor.h"
#include "parallel/nn/parameter.h"

namespace strata {

// A slice of one parameter that this rank updates, and what of it this rank counts in the norm.
struct OwnedSlice {
  Parameter* parameter = nullptr;
  Range update;  // of the local part's flat elements
  Range norm;    // within update; each logical element is in exactly one rank's norm range
  Tensor value;  // flat [update.size()], type of the parameter
  Tensor grad;   // flat [update.size()], accumulate type; complete after forward_backward

  // Of something flat over `update`, what belongs to `norm`.
  Tensor counted(const Tensor& flat) const {
    return flat.narrow(0, norm.begin - update.begin, norm.size());
  }
};

// Calls f(box of the logical tensor, that part of `flat`) for every box of the slice; `flat` has
// update.size() elements, its parts are views.
void for_boxes(const OwnedSlice& slice, const Tensor& flat,
               const std::function<void(const Box&, Tensor)>& f);

}  // namespace strata
