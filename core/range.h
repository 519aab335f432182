#pragma once
#include <cstdint>

namespace strata {

// Half-open interval [begin, end) of elements, rows or tokens.
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const noexcept { return end - begin; }
  bool operator==(const Range&) const = default;
};

}  // namespace strata
