#pragma once
// Rows whose features lie in several processes: what an op needs of the others. Ops know no
// communicators; whoever calls them with a part of each row gives the two sums.
#include <cstdint>
#include <functional>

#include "core/tensor.h"

namespace strata::ops {

struct FeatureGroup {
  int64_t width = 0;  // features of the whole row; 0: x has all of them
  // In place, over all holders: sums_N are added up, of maxima_N the largest is kept.
  std::function<void(Tensor& sums_N, Tensor& maxima_N)> statistics;
  std::function<void(Tensor& sums_N)> sum;

  bool split() const noexcept { return width > 0; }
  int64_t features(const Tensor& x) const { return split() ? width : x.size(-1); }
};

}  // namespace strata::ops
