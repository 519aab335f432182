#include "parallel/plan/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace {

std::vector<std::string> lists(const Schedule& schedule) {
  std::vector<std::string> out;
  for (const StageSchedule& ops : schedule.ops) out.push_back(schedule_text(ops, schedule.chunks));
  return out;
}

TEST(Schedule, GoldenListsOfFourStagesAndSixMicrobatches) {
  EXPECT_EQ(lists(make_schedule("1f1b", 4, 6)),
            (std::vector<std::string>{
                "F0 F1 F2 F3 B0 F4 B1 F5 B2 B3 B4 B5", "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 B4 B5",
                "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 B5", "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5"}));
  EXPECT_EQ(lists(make_schedule("zb-h1", 4, 6)),
            (std::vector<std::string>{"F0 F1 F2 F3 I0 W0 F4 I1 W1 F5 I2 W2 I3 W3 I4 W4 I5 W5",
                                      "F0 F1 F2 I0 F3 I1 W0 F4 I2 W1 F5 I3 W2 I4 W3 I5 W4 W5",
                                      "F0 F1 I0 F2 I1 F3 I2 W0 F4 I3 W1 F5 I4 W2 I5 W3 W4 W5",
                                      "F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 W3 W4 W5"}));
  EXPECT_EQ(lists(make_schedule("gpipe", 1, 2)), (std::vector<std::string>{"F0 F1 B0 B1"}));
}

TEST(Schedule, GoldenListsOfTwoChunks) {
  EXPECT_EQ(
      lists(make_schedule("interleaved", 2, 4, 2)),
      (std::vector<std::string>{
          "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 F0.3 B1.1 F1.2 B0.0 F1.3 B0.1 B1.2 B1.3 B0.2 B0.3",
          "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3"}));
}

TEST(Schedule, EveryListIsValid) {
  for (int stages = 1; stages <= 8; ++stages) {
    for (int microbatches = 1; microbatches <= 20; ++microbatches) {
      for (const char* name : {"gpipe", "1f1b", "zb-h1"}) {
        EXPECT_EQ(check_schedule(make_schedule(name, stages, microbatches)),
                  std::vector<std::string>{});
      }
      for (int chunks = 2; chunks <= 4; ++chunks) {
        if (!why_not_schedule("interleaved", stages, microbatches, chunks).empty()) continue;
        EXPECT_EQ(check_schedule(make_schedule("interleaved", stages, microbatches, chunks)),
                  std::vector<std::string>{});
        for (int group = stages; group <= std::min(2 * stages, microbatches); ++group) {
          const int rest = microbatches % group;
          if (rest != 0 && rest < stages) continue;
          EXPECT_EQ(
              check_schedule(make_schedule("interleaved", stages, microbatches, chunks, group)),
              std::vector<std::string>{});
        }
      }
    }
  }
}

TEST(Schedule, SaysWhyThereIsNone) {
  EXPECT_EQ(why_not_schedule("1f1b", 4, 1, 1), "");
  EXPECT_NE(why_not_schedule("1f1b", 4, 4, 2), "");
  EXPECT_EQ(why_not_schedule("interleaved", 4, 4, 1), "interleaved needs plan.chunks >= 2");
  EXPECT_NE(why_not_schedule("interleaved", 4, 3, 2), "");
  EXPECT_NE(why_not_schedule("interleaved", 1, 3, 2), "");
  EXPECT_EQ(why_not_schedule("interleaved", 4, 7, 2), "");
  EXPECT_NE(why_not_schedule("2f2b", 4, 4, 1), "");
  EXPECT_NE(why_not_schedule("1f1b", 4, 0, 1), "");
}

// What a stage sends to another is, in order, what the other receives from it.
TEST(Schedule, TransfersOfTwoStages) {
  const Schedule schedule = make_schedule("1f1b", 2, 2);
  EXPECT_EQ(sends_of(schedule, 0),
            (std::vector<PipelineTransfer>{{false, 0, 1, 0, 0}, {false, 0, 1, 0, 1}}));
  EXPECT_EQ(receives_of(schedule, 1), sends_of(schedule, 0));
  EXPECT_EQ(sends_of(schedule, 1),
            (std::vector<PipelineTransfer>{{true, 1, 0, 1, 0}, {true, 1, 0, 1, 1}}));
  EXPECT_EQ(receives_of(schedule, 0), sends_of(schedule, 1));
}

// Chunks wrap around: from the last stage back to the first.
TEST(Schedule, TransfersOfChunks) {
  const Schedule schedule = make_schedule("interleaved", 2, 2, 2);
  const auto sends = sends_of(schedule, 1);
  EXPECT_EQ(sends[0], (PipelineTransfer{false, 1, 0, 1, 0}));
  EXPECT_EQ(std::count_if(sends.begin(), sends.end(), [](const auto& t) { return t.gradient; }), 4);
  EXPECT_EQ(sends.size(), 6u);
}

std::string problems_of(Schedule schedule, int stage, int first, int second) {
  auto& ops = schedule.ops[static_cast<size_t>(stage)];
  std::swap(ops[static_cast<size_t>(first)], ops[static_cast<size_t>(second)]);
  return join(check_schedule(schedule), "\n");
}

TEST(ScheduleCheck, FindsWhatIsWrong) {
  const Schedule good = make_schedule("zb-h1", 2, 2);  // F0 F1 I0 W0 I1 W1 | F0 I0 F1 I1 W0 W1
  Schedule missing = good;
  missing.ops[1].erase(missing.ops[1].begin() + 5);
  EXPECT_NE(join(check_schedule(missing)).find("stage 1: W1 is missing"), std::string::npos);
  Schedule twice = good;
  twice.ops[0].push_back(twice.ops[0][0]);
  EXPECT_NE(join(check_schedule(twice)).find("stage 0: F0 comes twice"), std::string::npos);
  EXPECT_NE(problems_of(good, 0, 2, 3).find("W0 comes before its input gradient"),
            std::string::npos);
  EXPECT_NE(problems_of(good, 1, 0, 1).find("I0 comes before its forward"), std::string::npos);
  EXPECT_NE(problems_of(good, 0, 0, 1)
                .find("activations from stage 0 to stage 1: place 0 sends "
                      "micro-batch 1 of part 0, the receiver expects "
                      "micro-batch 0 of part 0"),
            std::string::npos)
      << problems_of(good, 0, 0, 1);
  Schedule both = good;
  both.ops[0].push_back({ScheduleOp::Kind::Backward, 0, 1});
  EXPECT_NE(join(check_schedule(both)).find("comes whole and in halves"), std::string::npos);
  Schedule foreign = good;
  foreign.ops[0].push_back({ScheduleOp::Kind::Forward, 0, 2});
  EXPECT_NE(join(check_schedule(foreign)).find("F2 is not part of the step"), std::string::npos);
}

}  // namespace
}  // namespace strata
