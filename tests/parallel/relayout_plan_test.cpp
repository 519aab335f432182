#include "parallel/plan/relayout_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace {

constexpr int64_t kRows = 8, kTime = 24;

std::vector<LayerStrategy> layouts_of(int ranks) {
  std::vector<LayerStrategy> out;
  for (int tp = 1; tp <= ranks; ++tp) {
    if (ranks % tp != 0) continue;
    for (const bool sp : {false, true}) {
      out.push_back({.dp = ranks / tp, .tp = tp, .sequence_parallel = sp});
    }
  }
  return out;
}

std::vector<ActivationPart> parts_of(const LayerStrategy& s, bool whole_rows = false) {
  std::vector<ActivationPart> out;
  for (int rank = 0; rank < s.dp * s.tp; ++rank) {
    out.push_back(activation_part(s, rank, kRows, kTime, whole_rows));
  }
  return out;
}

bool contains(const Range& outer, const Range& inner) {
  return outer.begin <= inner.begin && inner.end <= outer.end;
}

// What every rank holds, as element -> value.
using Held = std::map<std::pair<int64_t, int64_t>, int64_t>;

// Runs the plans of all ranks as messages; fails when a message is sent and not received, or when
// an element arrives twice or from a rank that has not got it.
std::vector<Held> execute(const std::vector<ActivationPart>& from,
                          const std::vector<ActivationPart>& to, const std::vector<Held>& held) {
  const int ranks = static_cast<int>(from.size());
  std::vector<RelayoutPlan> plans;
  for (int rank = 0; rank < ranks; ++rank) plans.push_back(relayout_plan(from, to, rank));
  std::vector<Held> out(static_cast<size_t>(ranks));
  for (int receiver = 0; receiver < ranks; ++receiver) {
    for (int sender = 0; sender < ranks; ++sender) {
      std::vector<ActivationPart> sent, expected;
      for (const auto& p : plans[sender].sends) {
        if (p.peer == receiver) sent.push_back(p.part);
      }
      for (const auto& p : plans[receiver].receives) {
        if (p.peer == sender) expected.push_back(p.part);
      }
      EXPECT_EQ(sent, expected) << sender << " -> " << receiver;
      for (const ActivationPart& part : sent) {
        EXPECT_TRUE(contains(from[sender].rows, part.rows));
        EXPECT_TRUE(contains(from[sender].time, part.time));
        for (int64_t r = part.rows.begin; r < part.rows.end; ++r) {
          for (int64_t t = part.time.begin; t < part.time.end; ++t) {
            EXPECT_TRUE(out[receiver].emplace(std::pair(r, t), held[sender].at({r, t})).second)
                << "received twice";
          }
        }
      }
    }
  }
  return out;
}

Held identities(const ActivationPart& part) {
  Held out;
  for (int64_t r = part.rows.begin; r < part.rows.end; ++r) {
    for (int64_t t = part.time.begin; t < part.time.end; ++t) out[{r, t}] = r * kTime + t;
  }
  return out;
}

TEST(RelayoutPlan, AllPairsOfLayoutsCarryEveryElementOnce) {
  for (const int ranks : {4, 8}) {
    for (const LayerStrategy& a : layouts_of(ranks)) {
      for (const LayerStrategy& b : layouts_of(ranks)) {
        SCOPED_TRACE(cat("dp", a.dp, " tp", a.tp, a.sequence_parallel ? " sp" : "", " -> dp", b.dp,
                         " tp", b.tp, b.sequence_parallel ? " sp" : ""));
        const auto from = parts_of(a), to = parts_of(b);
        std::vector<Held> held;
        for (const ActivationPart& part : from) held.push_back(identities(part));
        const auto out = execute(from, to, held);
        for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(out[rank], identities(to[rank]));
        for (int rank = 0; rank < ranks; ++rank) {
          const RelayoutPlan plan = relayout_plan(from, to, rank);
          EXPECT_EQ(plan.nothing(), from == to);
          EXPECT_TRUE(std::is_sorted(plan.sends.begin(), plan.sends.end(),
                                     [](auto& x, auto& y) { return x.peer < y.peer; }));
        }
      }
    }
  }
}

TEST(RelayoutPlan, RowsThatAllRanksHold) {
  const LayerStrategy a{.dp = 2, .tp = 2}, b{.dp = 1, .tp = 4, .sequence_parallel = true};
  const auto from = parts_of(a, true), to = parts_of(b, true);
  EXPECT_EQ(from[3].rows, (Range{0, kRows}));
  std::vector<Held> held;
  for (const ActivationPart& part : from) held.push_back(identities(part));
  const auto out = execute(from, to, held);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(out[rank], identities(to[rank]));
    EXPECT_EQ(relayout_plan(from, to, rank).received_elements(), 0) << "a slice of its own";
  }
}

// parallel-runtime.md 9.1: elements received by the busiest rank, in parts of what a rank held.
TEST(RelayoutPlan, ReceivedElementsOfTheTable) {
  struct Row {
    LayerStrategy from, to;
    double busiest, average;
  };
  const LayerStrategy dp8{.dp = 8, .tp = 1}, dp4tp2{.dp = 4, .tp = 2}, dp2tp4{.dp = 2, .tp = 4};
  const LayerStrategy dp4tp2sp{.dp = 4, .tp = 2, .sequence_parallel = true};
  const LayerStrategy dp2tp4sp{.dp = 2, .tp = 4, .sequence_parallel = true};
  const LayerStrategy tp8sp{.dp = 1, .tp = 8, .sequence_parallel = true};
  for (const Row& row : std::vector<Row>{{dp8, dp4tp2, 1, 1},
                                         {dp4tp2, dp8, 0, 0},
                                         {dp8, dp2tp4, 3, 3},
                                         {dp4tp2sp, dp2tp4sp, 1, 0.75},
                                         {dp8, tp8sp, 7.0 / 8, 7.0 / 8},
                                         {dp4tp2sp, dp4tp2, 1, 1}}) {
    const auto from = parts_of(row.from), to = parts_of(row.to);
    int64_t busiest = 0, sum = 0;
    for (int rank = 0; rank < 8; ++rank) {
      const int64_t received = relayout_plan(from, to, rank).received_elements();
      busiest = std::max(busiest, received);
      sum += received;
    }
    const double local = static_cast<double>(from[0].elements());
    EXPECT_DOUBLE_EQ(static_cast<double>(busiest) / local, row.busiest);
    EXPECT_DOUBLE_EQ(static_cast<double>(sum) / 8 / local, row.average);
  }
}

TEST(RelayoutPlan, RefusesPartsThatNobodyHolds) {
  std::vector<ActivationPart> from(2, {{0, 4}, {0, 2}}), to(2, {{0, 4}, {0, 3}});
  EXPECT_THROW(relayout_plan(from, to, 0), InternalError);
}

}  // namespace
}  // namespace strata
