#include "core/prepare_process.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

namespace strata {
namespace prepare_process_test {

// A variable of the environment, as it was at the end of the scope.
class Variable {
 public:
  explicit Variable(const char* name) : name_(name) {
    if (const char* value = std::getenv(name)) before_ = value;
    ::unsetenv(name);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { before_ ? ::setenv(name_, before_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

TEST(PrepareProcess, AsksMklForTheSameBitsUnlessToldOtherwise) {
  const Variable mkl("MKL_CBWR");
  prepare_process();
  EXPECT_STREQ(std::getenv("MKL_CBWR"), "AUTO");
  ::setenv("MKL_CBWR", "COMPATIBLE", 1);
  prepare_process();
  EXPECT_STREQ(std::getenv("MKL_CBWR"), "COMPATIBLE");
}

long page_faults() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// 64 MiB, a byte of each page written, then freed; again and again. 16384 pages of 4 KiB each time
// when they go back to the system.
TEST(PrepareProcess, FreedMemoryStays) {
  const Variable mmap("MALLOC_MMAP_THRESHOLD_"), trim("MALLOC_TRIM_THRESHOLD_");
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
