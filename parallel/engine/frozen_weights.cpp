#include "parallel/engine/frozen_weights.h"

#include <ATen/core/grad_mode.h>

#include "core/text.h"
#include "parallel/engine/owned_slice.h"

namespace strata {

void save_frozen(ParallelManager& model, CheckpointWriter& out) {
  for (const OwnedSlice& slice : model.frozen_slices()) {
    const ParamMeta& meta = slice.parameter->meta;
    for_boxes(slice, slice.value, [&](const Box& box, const Tensor& part) {
      out.add(cat("/model/", meta.name), meta.logical, box, part.detach());
    });
  }
}

void load_frozen(ParallelManager& model, const WeightSource& source) {
  at::NoGradGuard no_grad;
  for (const OwnedSlice& slice : model.frozen_slices()) {
    for_boxes(slice, slice.value, [&](const Box& box, Tensor part) {
      part.copy_(source.read(*slice.parameter, box, part.scalar_type()));
    });
  }
}

}  // namespace strata
