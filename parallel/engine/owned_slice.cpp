#include "parallel/engine/owned_slice.h"

namespace strata {

void for_boxes(const OwnedSlice& slice, const Tensor& flat,
               const std::function<void(const Box&, Tensor)>& f) {
  const Parameter& p = *slice.parameter;
  const Shape local = local_shape(p.meta.shard, p.meta.logical, p.tp_index, p.tp_size);
  if (slice.update == Range{0, element_count(local)}) {
    const Tensor shaped = flat.view(local);
    for (const LocalBox& box : p.boxes()) {
      Tensor part = shaped;
      for (size_t d = 0; d < box.local_offset.size(); ++d)
        part = part.narrow(static_cast<int64_t>(d), box.local_offset[d], box.logical.extent[d]);
      f(box.logical, part);
    }
    return;
  }
  // Boxes of a flat range lie one after the other in it.
  int64_t at = 0;
  for (const LocalBox& box : local_boxes(p.meta.shard, p.meta.logical, p.tp_index, p.tp_size,
                                         slice.update.begin, slice.update.end)) {
    f(box.logical, flat.narrow(0, at, box.logical.elements()).view(box.logical.extent));
    at += box.logical.elements();
  }
}

}  // namespace strata
