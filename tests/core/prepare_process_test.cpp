#include "core/prepare_process.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace strata {
namespace prepare_process_test {

TEST(PrepareProcess, AsksMklForTheSameBitsUnlessToldOtherwise) {
  const char* set = std::getenv("MKL_CBWR");
  const std::string before = set != nullptr ? set : "";
  ::unsetenv("MKL_CBWR");
  prepare_process();
  EXPECT_STREQ(std::getenv("MKL_CBWR"), "AUTO");
  ::setenv("MKL_CBWR", "COMPATIBLE", 1);
  prepare_process();
  EXPECT_STREQ(std::getenv("MKL_CBWR"), "COMPATIBLE");
  set != nullptr ? ::setenv("MKL_CBWR", before.c_str(), 1) : ::unsetenv("MKL_CBWR");
}

long page_faults() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// 64 MiB, a byte of each page written, then freed; again and again. 16384 pages of 4 KiB each time
// when they go back to the system.
TEST(PrepareProcess, FreedMemoryStays) {
  if (std::getenv("MALLOC_MMAP_THRESHOLD_") != nullptr ||
      std::getenv("MALLOC_TRIM_THRESHOLD_") != nullptr)
    GTEST_SKIP() << "the environment says how memory is kept";
  prepare_process();
  constexpr size_t kBytes = size_t{64} << 20;
  const auto use = [] {
    const auto memory = std::make_unique_for_overwrite<char[]>(kBytes);
    volatile char* pages = memory.get();
    for (size_t i = 0; i < kBytes; i += 4096) pages[i] = 1;
  };
  use();
  const long before = page_faults();
  for (int i = 0; i < 4; ++i) use();
  EXPECT_LT(page_faults() - before, 1000);
}

}  // namespace prepare_process_test
}  // namespace strata
