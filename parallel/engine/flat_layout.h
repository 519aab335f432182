#pragma once
// Where parameters lie in a flat buffer (parallel-runtime.md 5.2). One buffer per (layer, dtype,
// tp-summed or not). Of equal parts, as many as there are shards, rank k owns the k-th regardless
// of parameter borders, but for weights that are updated as whole matrices (aligned layouts). An
// internal cache: nothing persistent refers to it.
#include <cstdint>
#include <vector>

#include "parallel/nn/shard.h"

namespace strata {

struct FlatSlot {
  int64_t begin = 0, elements = 0;  // in the buffer
};
struct FlatLayout {
  std::vector<FlatSlot> slots;  // one per parameter, in the order given
  int64_t size = 0;             // padded: a multiple of dp * 128
  // Aligned layouts: where the parts begin and, last, where they end. Empty: equal parts.
  std::vector<int64_t> borders = {};
  bool aligned() const noexcept { return !borders.empty(); }
  Range part(int index, int count) const {
    if (aligned()) return {borders[static_cast<size_t>(index)], borders[index + size_t{1}]};
    return {size / count * index, size / count * (index + 1)};
  }
};
// Parameters start at multiples of 64 elements.
FlatLayout make_flat_layout(const std::vector<int64_t>& elements, int dp);

// No parameter is cut: parameter i lies in part homes[i] of `parts`, which are as long as what is
// in them (a rule that works on matrices finds them whole, optimizers-distributed.md 2.3).
FlatLayout make_aligned_layout(const std::vector<int64_t>& elements, const std::vector<int>& homes,
                               int parts);

// What of parameter slot s lies in `part`: a range of the parameter's own elements (maybe empty).
Range overlap(const FlatSlot& slot, const Range& part);

}  // namespace strata
