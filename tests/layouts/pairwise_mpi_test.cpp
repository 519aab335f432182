// The layout matrix (parallel-runtime.md 15.3): a covering set on every run, everything possible
// when asked for.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>

#include "tests/layouts/compare.h"
#include "tests/support/mpi_main.h"

namespace strata::testing {

TEST(LayoutMatrix, PairwiseRowsEqualOneProcess) {
  int rows = 0;
  for (const LayoutRow& row : pairwise_rows()) {
    if (row.world() != test::world_size()) continue;
    expect_like_one_process(row, 20);
    ++rows;
  }
  if (test::world_rank() == 0) std::cout << rows << " layouts\n";
}

// All of them: one step each. Part K of N with STRATA_LAYOUTS=K/N, all with 0/1.
TEST(LayoutMatrix, EveryRowEqualsOneProcess) {
  const char* part = std::getenv("STRATA_LAYOUTS");
  if (part == nullptr) GTEST_SKIP() << "a long campaign: STRATA_LAYOUTS=0/1 runs it";
  int at = 0, of = 1;
  ASSERT_EQ(std::sscanf(part, "%d/%d", &at, &of), 2) << "STRATA_LAYOUTS=K/N";
  int rows = 0, number = 0;
  for (const LayoutRow& row : all_rows()) {
    if (row.world() != test::world_size() || number++ % of != at) continue;
    expect_like_one_process(row, 1);
    ++rows;
  }
  if (test::world_rank() == 0) std::cout << rows << " layouts\n";
}

}  // namespace strata::testing
