#pragma once
// Names of LibTorch types for headers that only pass them by reference. Costs nothing to include.
#include <cstdint>
#include <vector>

namespace at {
class Tensor;
}
namespace strata {
using Tensor = at::Tensor;
using Shape = std::vector<int64_t>;
}  // namespace strata
