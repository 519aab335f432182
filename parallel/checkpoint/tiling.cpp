#include "parallel/checkpoint/tiling.h"

#include <algorithm>
#include <set>

#include "core/tensor.h"
#include "core/text.h"

namespace strata::checkpoint_detail {
namespace tiling_detail {

std::string box_text(const Box& box) {
  return cat("at ", shape_text(box.offset), " of ", shape_text(box.extent));
}

// The axis along which the boxes start at the most places: sweeping along it keeps few boxes open
// at a time.
size_t sweep_axis(const std::vector<const Box*>& boxes, size_t axes) {
  size_t best = 0, most = 0;
  for (size_t axis = 0; axis < axes; ++axis) {
    std::set<int64_t> starts;
    for (const Box* box : boxes) starts.insert(box->offset[axis]);
    if (starts.size() > most) {
      most = starts.size();
      best = axis;
    }
  }
  return best;
}

bool overlap(const Box& a, const Box& b) {
  for (size_t i = 0; i < a.offset.size(); ++i) {
    if (a.offset[i] >= b.offset[i] + b.extent[i] || b.offset[i] >= a.offset[i] + a.extent[i])
      return false;
  }
  return true;
}

}  // namespace tiling_detail

std::string why_not_tiled(const std::vector<int64_t>& global,
                          const std::vector<const Box*>& boxes) {
  const int64_t expected = element_count(global);
  if (expected == 0) {
    return boxes.size() == 1
               ? ""
               : cat("an empty tensor needs exactly one piece, there are ", boxes.size());
  }
  // No overlap and the right sum of elements: then nothing is left uncovered.
  std::vector<const Box*> order;
  int64_t covered = 0;
  for (const Box* box : boxes) {
    const int64_t elements = element_count(box->extent);
    if (elements == 0) return cat("the piece ", tiling_detail::box_text(*box), " is empty");
    if (__builtin_add_overflow(covered, elements, &covered))
      return "its pieces have too many elements";
    order.push_back(box);
  }
  if (!global.empty()) {
    const size_t axis = tiling_detail::sweep_axis(order, global.size());
    std::sort(order.begin(), order.end(),
              [axis](const Box* a, const Box* b) { return a->offset[axis] < b->offset[axis]; });
    // Damaged tables must not take for ever: real layouts stay far below this many comparisons.
    int64_t budget = 50'000'000;
    std::vector<const Box*> open;
    for (const Box* box : order) {
      std::erase_if(open, [&](const Box* o) {
        return o->offset[axis] + o->extent[axis] <= box->offset[axis];
      });
      budget -= static_cast<int64_t>(open.size()) + 1;
      if (budget < 0)
        return cat("it is cut into ", boxes.size(),
                   " pieces in a way that takes too long to check");
      for (const Box* other : open) {
        if (tiling_detail::overlap(*box, *other)) {
          return cat("the pieces ", tiling_detail::box_text(*other), " and ",
                     tiling_detail::box_text(*box), " overlap");
        }
      }
      open.push_back(box);
    }
  } else if (order.size() > 1) {
    return "a scalar has more than one piece";
  }
  if (covered != expected) {
    return cat("its pieces have ", covered, " of ", expected, " elements; a part is missing");
  }
  return "";
}

}  // namespace strata::checkpoint_detail
