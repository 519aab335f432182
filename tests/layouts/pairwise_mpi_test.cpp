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

// One step each of every 1024th; with STRATA_LAYOUTS=K/N of every N-th from the K-th, with 0/1 of
// all.
TEST(LayoutMatrix, EveryRowEqualsOneProcess) {
  const char* part = std::getenv("STRATA_LAYOUTS");
  int at = 0, of = 1024;
  if (part != nullptr) {
    ASSERT_EQ(std::sscanf(part, "%d/%d", &at, &of), 2) << "STRATA_LAYOUTS=K/N";
  }
  int rows = 0, number = 0;
  for (const LayoutRow& row : all_rows()) {
    if (row.world() != test::world_size() || number++ % of != at) continue;
    expect_like_one_process(row, 1);
    ++rows;
  }
  EXPECT_GT(rows, 0);
  if (test::world_rank() == 0) std::cout << rows << " layouts\n";
}

}  // namespace strata::testing
