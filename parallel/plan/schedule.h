#pragma once
// Pipeline schedules as data: for every stage the list of what it does, in order. Generators,
// checks, simulator and executor read the same lists (parallel-runtime.md 7). Pure functions, no
// torch.
//
//   gpipe        all forwards, then all backwards
//   1f1b         one forward, one backward; at most stages - stage micro-batches in flight
//   interleaved  1f1b over `chunks` model chunks per stage; the bubble shrinks by that factor
//   zb-h1        backward split into input gradient (I) and weight gradient (W); W fills bubbles
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

struct ScheduleOp {
  // Backward is InputGrad and WeightGrad in one.
  enum class Kind : uint8_t { Forward, Backward, InputGrad, WeightGrad };
  Kind kind = Kind::Forward;
  int chunk = 0;
  int microbatch = 0;
  bool operator==(const ScheduleOp&) const = default;
};
using StageSchedule = std::vector<ScheduleOp>;

struct Schedule {
  int stages = 1, chunks = 1, microbatches = 1;
  std::vector<StageSchedule> ops;  // one list per stage
};

// "gpipe", "1f1b", "interleaved", "zb-h1".
const std::vector<std::string_view>& schedule_names();

// "" when the schedule exists for these numbers, else what is wrong, in words ("interleaved needs
// plan.chunks >= 2").
std::string why_not_schedule(std::string_view name, int stages, int microbatches, int chunks);

// Requires why_not_schedule() to be empty. group: micro-batches that go through a chunk together
// (interleaved only); 0: the smallest that works, which is `stages` when it divides microbatches.
Schedule make_schedule(std::string_view name, int stages, int microbatches, int chunks = 1,
                       int group = 0);

// "F0 F1 B0", "F0.1 B1.0" (chunk.micro-batch) with more than one chunk: the notation of the tests.
std::string schedule_text(const StageSchedule& ops, int chunks);

// A tensor that goes from one virtual stage to the next (activation) or the one before (gradient).
struct PipelineTransfer {
  bool gradient = false;
  int from = 0, to = 0;   // stages
  int virtual_stage = 0;  // of the sender
  int microbatch = 0;
  bool operator==(const PipelineTransfer&) const = default;
};
// Those a stage sends / receives, in the order in which its list produces / consumes them. Each of
// the channels (gradient?, from, to) carries its own in this order.
std::vector<PipelineTransfer> sends_of(const Schedule& schedule, int stage);
std::vector<PipelineTransfer> receives_of(const Schedule& schedule, int stage);

// Everything wrong with a list: an op missing or twice, a backward before its forward, a channel
// whose sender's order is not its receiver's. Empty: valid. (Termination is simulate()'s.)
std::vector<std::string> check_schedule(const Schedule& schedule);

}  // namespace strata
