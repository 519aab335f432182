// Proofs about schedules that need no times: nothing is missing, causes come before effects, and
// both ends of every channel agree on its order.
#include <algorithm>
#include <map>
#include <tuple>

#include "core/text.h"
#include "parallel/plan/schedule.h"

namespace strata {
namespace schedule_check_detail {

using Kind = ScheduleOp::Kind;

// Where an op stands in the list of its stage; -1 while not found.
struct Places {
  int forward = -1, backward = -1, input_grad = -1, weight_grad = -1;
  int& of(Kind kind) {
    return kind == Kind::Forward     ? forward
           : kind == Kind::Backward  ? backward
           : kind == Kind::InputGrad ? input_grad
                                     : weight_grad;
  }
};

void check_stage(const Schedule& schedule, int stage, std::vector<std::string>& problems) {
  const StageSchedule& ops = schedule.ops[static_cast<size_t>(stage)];
  const auto name = [&](const ScheduleOp& op) { return schedule_text({op}, schedule.chunks); };
  std::map<std::pair<int, int>, Places> places;
  for (int at = 0; at < static_cast<int>(ops.size()); ++at) {
    const ScheduleOp& op = ops[static_cast<size_t>(at)];
    if (op.chunk < 0 || op.chunk >= schedule.chunks || op.microbatch < 0 ||
        op.microbatch >= schedule.microbatches) {
      problems.push_back(cat("stage ", stage, ": ", name(op), " is not part of the step"));
      continue;
    }
    int& place = places[{op.chunk, op.microbatch}].of(op.kind);
    if (place >= 0) problems.push_back(cat("stage ", stage, ": ", name(op), " comes twice"));
    place = at;
  }
  for (int chunk = 0; chunk < schedule.chunks; ++chunk) {
    for (int m = 0; m < schedule.microbatches; ++m) {
      const Places& p = places[{chunk, m}];
      const auto say = [&](Kind kind, const char* what) {
        problems.push_back(cat("stage ", stage, ": ", name({kind, chunk, m}), what));
      };
      const bool whole = p.backward >= 0, halves = p.input_grad >= 0 || p.weight_grad >= 0;
      if (p.forward < 0) say(Kind::Forward, " is missing");
      if (whole && halves) say(Kind::Backward, " comes whole and in halves");
      if (!whole && !halves) say(Kind::Backward, " is missing");
      if (halves && p.input_grad < 0) say(Kind::InputGrad, " is missing");
      if (halves && p.weight_grad < 0) say(Kind::WeightGrad, " is missing");
      if (whole && p.backward < p.forward) say(Kind::Backward, " comes before its forward");
      if (p.input_grad >= 0 && p.input_grad < p.forward)
        say(Kind::InputGrad, " comes before its forward");
      if (p.weight_grad >= 0 && p.weight_grad < p.input_grad)
        say(Kind::WeightGrad, " comes before its input gradient");
    }
  }
}

using Channel = std::tuple<bool, int, int>;  // gradient, from, to
using Channels = std::map<Channel, std::vector<PipelineTransfer>>;

void add_to(Channels& channels, const std::vector<PipelineTransfer>& transfers) {
  for (const PipelineTransfer& t : transfers) channels[{t.gradient, t.from, t.to}].push_back(t);
}

}  // namespace schedule_check_detail

std::vector<std::string> check_schedule(const Schedule& schedule) {
  using namespace schedule_check_detail;
  std::vector<std::string> problems;
  if (static_cast<int>(schedule.ops.size()) != schedule.stages) {
    return {cat(schedule.ops.size(), " lists for ", schedule.stages, " stages")};
  }
  Channels sent, received;
  for (int stage = 0; stage < schedule.stages; ++stage) {
    check_stage(schedule, stage, problems);
    add_to(sent, sends_of(schedule, stage));
    add_to(received, receives_of(schedule, stage));
  }
  for (const auto& [channel, transfers] : sent) received[channel];
  for (const auto& [channel, expected] : received) {
    const auto& [gradient, from, to] = channel;
    const std::vector<PipelineTransfer>& given = sent[channel];
    const auto differs =
        std::mismatch(given.begin(), given.end(), expected.begin(), expected.end());
    if (differs.first == given.end() && differs.second == expected.end()) continue;
    const auto text = [](auto it, auto end) {
      return it == end ? std::string("nothing more")
                       : cat("micro-batch ", it->microbatch, " of part ", it->virtual_stage);
    };
    problems.push_back(cat(gradient ? "gradients" : "activations", " from stage ", from,
                           " to stage ", to, ": place ", differs.first - given.begin(), " sends ",
                           text(differs.first, given.end()), ", the receiver expects ",
                           text(differs.second, expected.end())));
  }
  return problems;
}

}  // namespace strata
