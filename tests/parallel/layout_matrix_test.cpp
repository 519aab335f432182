// The rows in which layouts are compared: every pair of values that can occur does.
#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "tests/support/layout_matrix.h"

namespace strata::testing {
namespace layout_matrix_test_detail {

using Pair = std::tuple<int, int, int, int>;
void add_pairs(const LayoutRow& row, std::set<Pair>& out) {
  for (int a = 0; a < kFactors; ++a) {
    for (int b = a + 1; b < kFactors; ++b) out.insert({a, row.choice[a], b, row.choice[b]});
  }
}

}  // namespace layout_matrix_test_detail

TEST(LayoutMatrix, PairwiseRowsContainEveryPossiblePair) {
  using namespace layout_matrix_test_detail;
  std::set<Pair> possible_pairs, covered;
  const auto all = all_rows();
  for (const LayoutRow& row : all) add_pairs(row, possible_pairs);
  const auto rows = pairwise_rows();
  for (const LayoutRow& row : rows) {
    EXPECT_TRUE(possible(row)) << row.text();
    add_pairs(row, covered);
  }
  EXPECT_EQ(covered, possible_pairs);
  EXPECT_LE(rows.size(), 16 * tiny_models().size());
  EXPECT_GE(all.size(), 10000u);
  std::cout << rows.size() << " rows cover " << covered.size() << " pairs of " << all.size()
            << " layouts\n";
}

TEST(LayoutMatrix, EveryRowIsAPlanThatPasses) {
  for (const LayoutRow& row : pairwise_rows()) {
    const RunSetup setup = row.setup();
    const auto spec = make_tiny(row.model());
    UniformPlan request{row.world(),        setup.pp,           setup.chunks,  setup.strategy,
                        setup.global_batch, setup.microbatches, setup.schedule};
    Plan plan = make_uniform_plan(request, spec->layer_count());
    if (setup.edit) setup.edit(plan);
    for (const std::string& problem : check_plan(plan, *spec, setup.length))
      ADD_FAILURE() << row.text() << ": " << problem;
  }
}

}  // namespace strata::testing
