#include "parallel/plan/simulate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace strata {
namespace {

Simulation run(const Schedule& schedule, const SimulationOptions& options = {}) {
  return simulate(schedule, unit_costs(schedule.chunks), options);
}

std::string case_text(std::string_view name, int stages, int microbatches, int chunks = 1) {
  return cat(name, " stages ", stages, " micro-batches ", microbatches, " chunks ", chunks);
}

// Busy plus idle is the makespan, operations of a stage do not overlap and all are done.
void expect_sound(const Schedule& schedule, const Simulation& simulation) {
  EXPECT_FALSE(simulation.deadlock) << simulation.why;
  for (int stage = 0; stage < schedule.stages; ++stage) {
    const auto& ops = simulation.timeline[stage];
    ASSERT_EQ(ops.size(), schedule.ops[stage].size());
    double busy = 0;
    for (size_t i = 0; i < ops.size(); ++i) {
      EXPECT_EQ(ops[i].op, schedule.ops[stage][i]);
      if (i > 0) {
        EXPECT_GE(ops[i].begin, ops[i - 1].end);
      }
      busy += ops[i].end - ops[i].begin;
    }
    EXPECT_NEAR(busy + simulation.idle[stage], simulation.makespan, 1e-9);
  }
}

TEST(Simulate, MakespansAndPeaksOfThePlainSchedules) {
  for (int p = 1; p <= 8; ++p) {
    for (int m = 1; m <= 20; ++m) {
      for (const int buffers : {1, 2, 4}) {
        for (const char* name : {"gpipe", "1f1b", "zb-h1"}) {
          SCOPED_TRACE(case_text(name, p, m));
          const Schedule schedule = make_schedule(name, p, m);
          const Simulation s = run(schedule, {.receive_buffers = buffers});
          expect_sound(schedule, s);
          const bool zero_bubble = std::string_view(name) == "zb-h1";
          if (!zero_bubble || m >= p) {
            EXPECT_DOUBLE_EQ(s.makespan, 3 * m + (zero_bubble ? 1 : 3) * (p - 1));
          }
          for (int r = 0; r < p; ++r) {
            if (zero_bubble) {
              EXPECT_LE(s.peak_live[r], std::min(m, p));
            } else {
              EXPECT_EQ(s.peak_live[r], std::string_view(name) == "1f1b" ? std::min(m, p - r) : m);
            }
          }
        }
      }
    }
  }
}

TEST(Simulate, MakespansAndPeaksOfInterleaved) {
  int cases = 0;
  for (int p = 2; p <= 8; ++p) {
    for (int m = 1; m <= 20; ++m) {
      for (int v = 2; v <= 4; ++v) {
        if (!why_not_schedule("interleaved", p, m, v).empty()) continue;
        for (const int buffers : {1, 2, 4}) {
          SCOPED_TRACE(case_text("interleaved", p, m, v));
          ++cases;
          const Schedule schedule = make_schedule("interleaved", p, m, v);
          const Simulation s = run(schedule, {.receive_buffers = buffers});
          expect_sound(schedule, s);
          if (m % p != 0) continue;
          EXPECT_NEAR(s.makespan, 3.0 * m + 3.0 * (p - 1) / v, 1e-9);
          for (int r = 0; r < p; ++r) {
            EXPECT_EQ(s.peak_live[r], std::min(m * v, 2 * (p - 1 - r) + (v - 1) * p + 1));
          }
        }
      }
    }
  }
  EXPECT_GT(cases, 500);
}

TEST(Simulate, ZeroBubbleWithFewMicrobatches) {
  EXPECT_DOUBLE_EQ(run(make_schedule("zb-h1", 4, 2)).makespan, 11);
  EXPECT_DOUBLE_EQ(run(make_schedule("zb-h1", 4, 3)).makespan, 13);
  EXPECT_DOUBLE_EQ(run(make_schedule("zb-h1", 8, 3)).makespan, 21);
  EXPECT_EQ(run(make_schedule("zb-h1", 4, 6)).peak_live, (std::vector<int>{4, 4, 4, 4}));
  EXPECT_EQ(run(make_schedule("1f1b", 4, 6)).peak_live, (std::vector<int>{4, 3, 2, 1}));
}

// (p-1)(F+B) idle for 1f1b, (p-1)(F+I-W) for zb-h1, whatever the times are.
TEST(Simulate, IdleTimeWithUnequalOperations) {
  SimulationCosts costs;
  costs.op = [](int, const ScheduleOp& op) {
    switch (op.kind) {
      case ScheduleOp::Kind::Forward:
        return 1.0;
      case ScheduleOp::Kind::InputGrad:
        return 1.25;
      case ScheduleOp::Kind::WeightGrad:
        return 0.75;
      case ScheduleOp::Kind::Backward:
        break;
    }
    return 2.0;
  };
  for (int p = 2; p <= 8; ++p) {
    for (const double idle : simulate(make_schedule("1f1b", p, 2 * p), costs).idle)
      EXPECT_NEAR(idle, 3.0 * (p - 1), 1e-9);
    for (const double idle : simulate(make_schedule("zb-h1", p, 2 * p), costs).idle)
      EXPECT_NEAR(idle, 1.5 * (p - 1), 1e-9);
  }
}

// Every border is crossed once forwards and once backwards in the shortest path of one micro-batch.
TEST(Simulate, TransfersTakeTime) {
  SimulationCosts costs = unit_costs(1);
  costs.transfer = 0.5;
  const Simulation s = simulate(make_schedule("1f1b", 3, 1), costs);
  EXPECT_DOUBLE_EQ(s.makespan, 3 * 3 + 4 * 0.5);
  EXPECT_DOUBLE_EQ(s.timeline[2][0].begin, 3);
}

TEST(Simulate, OneBufferHoldsTheNextTransferBack) {
  // Stage 1 is slow: with one buffer the second activation leaves when the first was taken.
  SimulationCosts costs;
  costs.transfer = 1;
  costs.op = [](int stage, const ScheduleOp&) { return stage == 0 ? 1.0 : 10.0; };
  const Schedule schedule = make_schedule("gpipe", 2, 3);
  const auto begin_of_last = [&](int buffers) {
    return simulate(schedule, costs, {.receive_buffers = buffers}).timeline[1][2].begin;
  };
  EXPECT_DOUBLE_EQ(begin_of_last(1), 22);
  costs.transfer = 15;
  EXPECT_DOUBLE_EQ(begin_of_last(1), 46);  // 1 + 15, taken: + 15, taken: + 15
  EXPECT_DOUBLE_EQ(begin_of_last(4), 36);  // 1 + 15, then two operations
}

TEST(Simulate, BlockingTransfersDeadlock) {
  const Simulation s = run(make_schedule("1f1b", 2, 4), {.blocking = true});
  EXPECT_TRUE(s.deadlock);
  EXPECT_EQ(s.why,
            "stage 0 sends the activation of micro-batch 1 to stage 1, before F1; stage 1 sends "
            "the gradient of micro-batch 0 to stage 0, before B0");
  EXPECT_FALSE(run(make_schedule("gpipe", 4, 4), {.blocking = true}).deadlock)
      << "all forwards, then all backwards: no two wait for each other";
}

TEST(Simulate, FindsListsThatNeverEnd) {
  Schedule schedule = make_schedule("1f1b", 2, 2);  // F0 F1 B0 B1 | F0 B0 F1 B1
  std::swap(schedule.ops[0][1], schedule.ops[0][2]);
  std::swap(schedule.ops[1][1], schedule.ops[1][2]);
  ASSERT_TRUE(check_schedule(schedule).empty()) << "each list and each channel is in order";
  const Simulation s = run(schedule);
  EXPECT_TRUE(s.deadlock);
  EXPECT_NE(s.why.find("stage 0 waits for the gradient of micro-batch 0 from stage 1, before B0"),
            std::string::npos)
      << s.why;

  schedule = make_schedule("gpipe", 2, 2);
  std::swap(schedule.ops[0][0], schedule.ops[0][1]);
  EXPECT_TRUE(run(schedule).deadlock) << "the receiver expects another order";
}

TEST(Timeline, DrawsStagesOverTime) {
  EXPECT_EQ(timeline_text(run(make_schedule("1f1b", 2, 2)), 18),
            "stage 0  F0F1....B0--..B1--\n"
            "stage 1  ..F0B0--F1B1--....\n");
}

TEST(Timeline, TraceHasEveryOperation) {
  const auto trace =
      nlohmann::json::parse(timeline_trace(run(make_schedule("interleaved", 2, 2, 2))));
  int operations = 0;
  for (const auto& event : trace["traceEvents"]) operations += event["ph"] == "X" ? 1 : 0;
  EXPECT_EQ(operations, 16);
  EXPECT_EQ(trace["traceEvents"][1]["name"], "F0.0");
  EXPECT_DOUBLE_EQ(trace["traceEvents"][1]["dur"], 0.5e6);
}

}  // namespace
}  // namespace strata
