#include "core/memory_meter.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "core/tensor.h"

namespace strata {

TEST(MemoryMeter, CountsWhatTensorsHold) {
  Tensor before = at::empty({1000});  // not known, and its end is not counted
  memory_meter::install();
  memory_meter::install();
  const int64_t start = memory_meter::live_bytes();
  before = Tensor();
  EXPECT_EQ(memory_meter::live_bytes(), start);
  Tensor a = at::empty({1 << 20});
  EXPECT_EQ(memory_meter::live_bytes() - start, 4 << 20);
  memory_meter::reset_peak();
  {
    const Tensor b = at::empty({1 << 18}), view = b.view({2, -1});
    EXPECT_EQ(memory_meter::live_bytes() - start, 5 << 20);
  }
  EXPECT_EQ(memory_meter::live_bytes() - start, 4 << 20);
  EXPECT_EQ(memory_meter::peak_bytes() - start, 5 << 20);
  a = Tensor();
  EXPECT_EQ(memory_meter::live_bytes(), start);
  memory_meter::reset_peak();
  EXPECT_EQ(memory_meter::peak_bytes(), start);
}

}  // namespace strata
