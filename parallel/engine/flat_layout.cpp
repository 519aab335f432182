#include "parallel/engine/flat_layout.h"

#include <algorithm>

namespace strata {

FlatLayout make_flat_layout(const std::vector<int64_t>& elements, int dp) {
  constexpr int64_t kAlign = 64, kPart = 128;
  FlatLayout out;
  int64_t at = 0;
  for (int64_t n : elements) {
    at = (at + kAlign - 1) / kAlign * kAlign;
    out.slots.push_back({at, n});
    at += n;
  }
  const int64_t granule = kPart * dp;
  out.size = (at + granule - 1) / granule * granule;
  return out;
}

FlatLayout make_aligned_layout(const std::vector<int64_t>& elements, const std::vector<int>& homes,
                               int parts) {
  constexpr int64_t kAlign = 64;
  FlatLayout out;
  out.slots.resize(elements.size());
  out.borders.push_back(0);
  for (int part = 0; part < parts; ++part) {
    for (size_t i = 0; i < elements.size(); ++i) {
      if (homes[i] != part) continue;
      out.slots[i] = {out.size, elements[i]};
      out.size += (elements[i] + kAlign - 1) / kAlign * kAlign;
    }
    out.borders.push_back(out.size);
  }
  return out;
}

Range overlap(const FlatSlot& slot, const Range& part) {
  const int64_t begin = std::clamp<int64_t>(part.begin - slot.begin, 0, slot.elements);
  const int64_t end = std::clamp<int64_t>(part.end - slot.begin, begin, slot.elements);
  return {begin, end};
}

}  // namespace strata
