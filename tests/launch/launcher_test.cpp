#include "launch/launcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace strata {
namespace launcher_test {

TEST(Launcher, AsksMklForTheSameBitsUnlessToldOtherwise) {
  const char* set = std::getenv("MKL_CBWR");
  const std::string before = set != nullptr ? set : "";
  ::unsetenv("MKL_CBWR");
  prepare_environment();
  EXPECT_STREQ(std::getenv("MKL_CBWR"), "AUTO");
  ::setenv("MKL_CBWR", "COMPATIBLE", 1);
  prepare_environment();
  EXPECT_STREQ(std::getenv("MKL_CBWR"), "COMPATIBLE");
  const auto relevant = relevant_environment();  // ranks compare it
  EXPECT_NE(std::find(relevant.begin(), relevant.end(),
                      std::pair<std::string, std::string>("MKL_CBWR", "COMPATIBLE")),
            relevant.end());
  set != nullptr ? ::setenv("MKL_CBWR", before.c_str(), 1) : ::unsetenv("MKL_CBWR");
}

}  // namespace launcher_test
}  // namespace strata
