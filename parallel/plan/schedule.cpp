#include "parallel/plan/schedule.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace schedule_detail {

using Kind = ScheduleOp::Kind;

StageSchedule gpipe(int microbatches) {
  StageSchedule ops;
  for (int m = 0; m < microbatches; ++m) ops.push_back({Kind::Forward, 0, m});
  for (int m = 0; m < microbatches; ++m) ops.push_back({Kind::Backward, 0, m});
  return ops;
}

// `forwards` in flight before the first backward, then one of each, then the remaining backwards.
// Both orders have the same length.
StageSchedule alternate(int warm_up, const std::vector<ScheduleOp>& forwards,
                        const std::vector<ScheduleOp>& backwards) {
  StageSchedule ops(forwards.begin(), forwards.begin() + warm_up);
  size_t backward = 0;
  for (size_t forward = static_cast<size_t>(warm_up); forward < forwards.size(); ++forward) {
    ops.push_back(forwards[forward]);
    ops.push_back(backwards[backward++]);
  }
  ops.insert(ops.end(), backwards.begin() + static_cast<std::ptrdiff_t>(backward), backwards.end());
  return ops;
}

StageSchedule one_forward_one_backward(int stages, int microbatches, int stage) {
  std::vector<ScheduleOp> forwards, backwards;
  for (int m = 0; m < microbatches; ++m) {
    forwards.push_back({Kind::Forward, 0, m});
    backwards.push_back({Kind::Backward, 0, m});
  }
  return alternate(std::min(microbatches, stages - 1 - stage), forwards, backwards);
}

// A group of micro-batches goes through all chunks before the next group starts.
StageSchedule interleaved(int stages, int microbatches, int stage, int chunks, int group) {
  std::vector<ScheduleOp> forwards, backwards;
  for (int first = 0; first < microbatches; first += group) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int m = first; m < std::min(first + group, microbatches); ++m) {
        forwards.push_back({Kind::Forward, chunk, m});
        backwards.push_back({Kind::Backward, chunks - 1 - chunk, m});
      }
    }
  }
  const int warm_up = 2 * (stages - 1 - stage) + (chunks - 1) * group;
  return alternate(std::min(static_cast<int>(forwards.size()), warm_up), forwards, backwards);
}

// 1f1b whose weight gradients run `stage` micro-batches late, where 1f1b would wait.
StageSchedule zero_bubble(int stages, int microbatches, int stage) {
  StageSchedule ops;
  const int warm_up = std::min(microbatches, stages - 1 - stage);
  int forward = 0, weight_grad = 0;
  while (forward < warm_up) ops.push_back({Kind::Forward, 0, forward++});
  for (int m = 0; m < microbatches; ++m) {
    if (forward < microbatches) ops.push_back({Kind::Forward, 0, forward++});
    ops.push_back({Kind::InputGrad, 0, m});
    if (m >= stage) ops.push_back({Kind::WeightGrad, 0, weight_grad++});
  }
  while (weight_grad < microbatches) ops.push_back({Kind::WeightGrad, 0, weight_grad++});
  return ops;
}

// The last group must not be so short that a stage waits for a chunk that has not come round.
bool group_fits(int stages, int microbatches, int group) {
  const int rest = microbatches % group;
  return group >= stages && group <= microbatches && (rest == 0 || rest >= stages);
}

int smallest_group(int stages, int microbatches) {
  int group = stages;
  while (!group_fits(stages, microbatches, group)) ++group;
  return group;
}

bool passes_activation(const ScheduleOp& op) { return op.kind == Kind::Forward; }
bool passes_gradient(const ScheduleOp& op) {
  return op.kind == Kind::Backward || op.kind == Kind::InputGrad;
}

}  // namespace schedule_detail

const std::vector<std::string_view>& schedule_names() {
  static const std::vector<std::string_view> names = {"gpipe", "1f1b", "interleaved", "zb-h1"};
  return names;
}

std::string why_not_schedule(std::string_view name, int stages, int microbatches, int chunks) {
  const auto& names = schedule_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return cat("no schedule is called \"", name, "\"");
  }
  if (stages < 1 || microbatches < 1 || chunks < 1) {
    return cat("a schedule of ", stages, " stages, ", microbatches, " micro-batches and ", chunks,
               " chunks has nothing to do");
  }
  if (name != "interleaved") {
    return chunks == 1 ? "" : cat(name, " has one chunk per stage (plan.chunks = 1)");
  }
  if (chunks < 2) return "interleaved needs plan.chunks >= 2";
  if (stages < 2) return "interleaved needs plan.pp >= 2";
  if (microbatches < stages) {
    return cat("interleaved needs at least as many micro-batches as stages: ", stages);
  }
  return {};
}

Schedule make_schedule(std::string_view name, int stages, int microbatches, int chunks, int group) {
  using namespace schedule_detail;
  const std::string why = why_not_schedule(name, stages, microbatches, chunks);
  STRATA_CHECK(why.empty(), why);
  if (name == "interleaved") {
    if (group == 0) group = smallest_group(stages, microbatches);
    STRATA_CHECK(group_fits(stages, microbatches, group),
                 cat("interleaved: groups of ", group, " of ", microbatches, " micro-batches on ",
                     stages, " stages"));
  }
  Schedule schedule{stages, chunks, microbatches, {}};
  for (int stage = 0; stage < stages; ++stage) {
    schedule.ops.push_back(name == "gpipe"  ? gpipe(microbatches)
                           : name == "1f1b" ? one_forward_one_backward(stages, microbatches, stage)
                           : name == "zb-h1"
                               ? zero_bubble(stages, microbatches, stage)
                               : interleaved(stages, microbatches, stage, chunks, group));
  }
  return schedule;
}

std::string schedule_text(const StageSchedule& ops, int chunks) {
  std::string out;
  for (const ScheduleOp& op : ops) {
    if (!out.empty()) out += ' ';
    out += "FBIW"[static_cast<int>(op.kind)];
    if (chunks > 1) out += cat(op.chunk, '.');
    out += cat(op.microbatch);
  }
  return out;
}

std::vector<PipelineTransfer> sends_of(const Schedule& schedule, int stage) {
  const int stages = schedule.stages, last = stages * schedule.chunks - 1;
  std::vector<PipelineTransfer> out;
  for (const ScheduleOp& op : schedule.ops.at(static_cast<size_t>(stage))) {
    const int part = op.chunk * stages + stage;
    if (schedule_detail::passes_activation(op) && part < last) {
      out.push_back({false, stage, (part + 1) % stages, part, op.microbatch});
    } else if (schedule_detail::passes_gradient(op) && part > 0) {
      out.push_back({true, stage, (part - 1) % stages, part, op.microbatch});
    }
  }
  return out;
}

std::vector<PipelineTransfer> receives_of(const Schedule& schedule, int stage) {
  const int stages = schedule.stages, last = stages * schedule.chunks - 1;
  std::vector<PipelineTransfer> out;
  for (const ScheduleOp& op : schedule.ops.at(static_cast<size_t>(stage))) {
    const int part = op.chunk * stages + stage;
    if (schedule_detail::passes_activation(op) && part > 0) {
      out.push_back({false, (part - 1) % stages, stage, part - 1, op.microbatch});
    } else if (schedule_detail::passes_gradient(op) && part < last) {
      out.push_back({true, (part + 1) % stages, stage, part + 1, op.microbatch});
    }
  }
  return out;
}

}  // namespace strata
