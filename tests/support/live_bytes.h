#pragma once
// How many bytes tensors on the CPU hold.
#include <cstdint>

namespace strata::testing {

// From the first call on. Tensors made before it do not count.
int64_t live_bytes();

}  // namespace strata::testing
