#pragma once
// Dropout whose mask is a function of (seed, site name, step, logical element): equal for every
// layout, repeated exactly by recomputation. Element of [B, T, F]: ((first_row + b) * length +
// first_token + t) * width + first_feature + f; kept values are scaled by 1/(1-prob).
#include <cstdint>
#include <string>

#include "core/tensor.h"

namespace strata::ops {

struct DropoutKey {
  uint64_t seed = 0;
  std::string name;  // "<layer name>.<site>"
  uint32_t step = 0;
  int64_t first_row = 0;
  int64_t first_token = 0;    // where x's tokens start within a whole row
  int64_t length = 0;         // tokens of a whole row; 0: those of x
  int64_t first_feature = 0;  // where x's features start within the logical width
  int64_t width = 0;          // logical width; 0: that of x
};
Tensor dropout(const Tensor& x_BTF, double prob, const DropoutKey& key);

}  // namespace strata::ops
