#include "parallel/plan/border_traffic.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/plan/plan_string.h"
#include "parallel/plan/relayout_plan.h"

namespace strata {
namespace border_traffic_test {

int64_t busiest(const LayerStrategy& from, const LayerStrategy& to, int64_t rows, int64_t time) {
  std::vector<ActivationPart> held, wanted;
  for (int rank = 0; rank < from.dp * from.tp; ++rank) {
    held.push_back(activation_part(from, rank, rows, time));
    wanted.push_back(activation_part(to, rank, rows, time));
  }
  int64_t most = 0;
  for (int rank = 0; rank < from.dp * from.tp; ++rank)
    most = std::max(most, relayout_plan(held, wanted, rank).received_elements());
  return most;
}

TEST(BorderTraffic, IsWhatTheRelayoutMoves) {
  std::vector<LayerStrategy> layouts;
  for (const int tp : {1, 2, 3, 6, 12}) {
    for (const bool sp : {false, true})
      layouts.push_back({.dp = 12 / tp, .tp = tp, .sequence_parallel = sp});
  }
  for (const LayerStrategy& a : layouts) {
    for (const LayerStrategy& b : layouts) {
      Plan plan;
      plan.world_size = 12;
      plan.layers = {a, b};
      plan.virtual_stage = {0, 0};
      plan.global_batch = 24;
      const auto borders = border_traffic(plan, 12);
      const int64_t forward = busiest(a, b, 24, 12), backward = busiest(b, a, 24, 12);
      if (borders.empty()) {
        EXPECT_EQ(forward, 0);
        EXPECT_EQ(backward, 0);
        continue;
      }
      ASSERT_EQ(borders.size(), 1u);
      EXPECT_EQ(borders[0].layer, 1);
      EXPECT_EQ(borders[0].forward, forward) << plan_string(plan);
      EXPECT_EQ(borders[0].backward, backward) << plan_string(plan);
    }
  }
}

TEST(BorderTraffic, KnownCases) {
  // In units of what a rank holds before, as in the table of switches between 8 ranks.
  const auto moved = [](const std::string& from, const std::string& to) {
    const Plan plan = parse_plan_string("N8 p1 m1 1f1b gbs8 | emb: " + from + " | head: " + to);
    const auto borders = border_traffic(plan, 16);
    const int64_t held = activation_part(plan.layers[0], 0, 8, 16).elements();
    return borders.empty() ? 0.0
                           : static_cast<double>(borders[0].forward) / static_cast<double>(held);
  };
  EXPECT_EQ(moved("t1 d8", "t2 q0 d4"), 1);
  EXPECT_EQ(moved("t2 q0 d4", "t1 d8"), 0);
  EXPECT_EQ(moved("t1 d8", "t4 q0 d2"), 3);
  EXPECT_EQ(moved("t2 d4", "t4 d2"), 1);
  EXPECT_EQ(moved("t1 d8", "t8 d1"), 7.0 / 8);
  EXPECT_EQ(moved("t2 d4", "t2 q0 d4"), 1);
  EXPECT_EQ(moved("t2 d4 z1", "t2 d4 z3 rf"), 0) << "the same cut of rows and tokens";
}

}  // namespace border_traffic_test
}  // namespace strata
