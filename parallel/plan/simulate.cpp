#include "parallel/plan/simulate.h"

#include <algorithm>

#include "core/text.h"

namespace strata {
namespace simulate_detail {

// A stage's program: an operation with the receive before it and the send after it.
struct Action {
  enum class Kind { Receive, Compute, Send } kind = Kind::Compute;
  ScheduleOp op;
  PipelineTransfer transfer;
};

std::vector<Action> program_of(const Schedule& schedule, int stage) {
  const int stages = schedule.stages, last = stages * schedule.chunks - 1;
  const auto sends = sends_of(schedule, stage), receives = receives_of(schedule, stage);
  size_t sent = 0, received = 0;
  std::vector<Action> program;
  for (const ScheduleOp& op : schedule.ops[static_cast<size_t>(stage)]) {
    const int part = op.chunk * stages + stage;
    const bool forward = op.kind == ScheduleOp::Kind::Forward;
    const bool transfers = op.kind != ScheduleOp::Kind::WeightGrad;
    if (transfers && part != (forward ? 0 : last)) {
      program.push_back({Action::Kind::Receive, op, receives[received++]});
    }
    program.push_back({Action::Kind::Compute, op, {}});
    if (transfers && part != (forward ? last : 0)) {
      program.push_back({Action::Kind::Send, op, sends[sent++]});
    }
  }
  return program;
}

// What travels from one stage to another in one direction, in the order in which it was sent.
struct Channel {
  std::vector<PipelineTransfer> sent;
  std::vector<double> sent_at, taken_at;  // taken_at: when the receiver's buffer was free again
  double last_arrival = 0;
};

class Run {
 public:
  Run(const Schedule& schedule, const SimulationCosts& costs, const SimulationOptions& options)
      : costs_(costs), options_(options), stages_(schedule.stages) {
    out_.chunks = schedule.chunks;
    for (int stage = 0; stage < stages_; ++stage) programs_.push_back(program_of(schedule, stage));
    const auto count = static_cast<size_t>(stages_);
    next_.assign(count, 0);
    clock_.assign(count, 0.0);
    live_.assign(count, 0);
    channels_.resize(2 * count);
    out_.timeline.resize(count);
    out_.peak_live.assign(count, 0);
    out_.idle.assign(count, 0.0);
  }

  // Times follow from causes only, so the order in which stages are advanced does not matter.
  Simulation run() {
    for (bool progress = true; progress;) {
      progress = false;
      for (size_t stage = 0; stage < programs_.size(); ++stage) {
        while (advance(stage)) progress = true;
      }
    }
    finish();
    return std::move(out_);
  }

 private:
  const Action* current(size_t stage) const {
    return next_[stage] < programs_[stage].size() ? &programs_[stage][next_[stage]] : nullptr;
  }

  // A stage sends activations to one other stage and gradients to one.
  Channel& channel_of(const PipelineTransfer& transfer) {
    return channels_[static_cast<size_t>(transfer.from + (transfer.gradient ? stages_ : 0))];
  }

  bool advance(size_t stage) {
    const Action* action = current(stage);
    if (action == nullptr) return false;
    switch (action->kind) {
      case Action::Kind::Compute:
        compute(stage, action->op);
        return true;
      case Action::Kind::Send:
        return options_.blocking ? meet(stage, action->transfer) : post(stage, action->transfer);
      case Action::Kind::Receive:
        return !options_.blocking && take(stage, action->transfer);
    }
    return false;
  }

  void compute(size_t stage, const ScheduleOp& op) {
    const double begin = clock_[stage];
    clock_[stage] += costs_.op(static_cast<int>(stage), op);
    out_.timeline[stage].push_back({op, begin, clock_[stage]});
    out_.idle[stage] -= clock_[stage] - begin;  // finish() adds the makespan
    const bool frees =
        op.kind == ScheduleOp::Kind::Backward || op.kind == ScheduleOp::Kind::WeightGrad;
    live_[stage] += op.kind == ScheduleOp::Kind::Forward ? 1 : frees ? -1 : 0;
    out_.peak_live[stage] = std::max(out_.peak_live[stage], live_[stage]);
    ++next_[stage];
  }

  bool post(size_t stage, const PipelineTransfer& transfer) {
    Channel& channel = channel_of(transfer);
    channel.sent.push_back(transfer);
    channel.sent_at.push_back(clock_[stage]);
    ++next_[stage];
    return true;
  }

  // An item travels when it was sent and a buffer is posted for it, behind the one before it.
  bool take(size_t stage, const PipelineTransfer& transfer) {
    Channel& channel = channel_of(transfer);
    const size_t item = channel.taken_at.size();
    if (item >= channel.sent.size() || channel.sent[item] != transfer) return false;
    const auto buffers = static_cast<size_t>(options_.receive_buffers);
    const double posted = item < buffers ? 0 : channel.taken_at[item - buffers];
    const double arrival = std::max(channel.sent_at[item], posted) + costs_.transfer;
    channel.last_arrival = std::max(channel.last_arrival, arrival);
    clock_[stage] = std::max(clock_[stage], channel.last_arrival);
    channel.taken_at.push_back(clock_[stage]);
    ++next_[stage];
    return true;
  }

  // A blocking send and a blocking receive end together.
  bool meet(size_t stage, const PipelineTransfer& transfer) {
    const auto peer = static_cast<size_t>(transfer.to);
    const Action* other = current(peer);
    if (other == nullptr || other->kind != Action::Kind::Receive || other->transfer != transfer) {
      return false;
    }
    clock_[stage] = clock_[peer] = std::max(clock_[stage], clock_[peer]) + costs_.transfer;
    ++next_[stage];
    ++next_[peer];
    return true;
  }

  void finish() {
    std::vector<std::string> waiting;
    for (size_t stage = 0; stage < programs_.size(); ++stage) {
      out_.makespan = std::max(out_.makespan, clock_[stage]);
      if (const Action* action = current(stage)) {
        const PipelineTransfer& t = action->transfer;
        const bool sends = action->kind == Action::Kind::Send;
        waiting.push_back(cat("stage ", stage, sends ? " sends the " : " waits for the ",
                              t.gradient ? "gradient" : "activation", " of micro-batch ",
                              t.microbatch, sends ? " to stage " : " from stage ",
                              sends ? t.to : t.from, ", before ",
                              schedule_text({action->op}, out_.chunks)));
      }
    }
    for (double& idle : out_.idle) idle += out_.makespan;
    out_.deadlock = !waiting.empty();
    out_.why = join(waiting, "; ");
  }

  const SimulationCosts& costs_;
  const SimulationOptions options_;
  const int stages_;
  std::vector<std::vector<Action>> programs_;
  std::vector<size_t> next_;  // per stage: its current action
  std::vector<double> clock_;
  std::vector<int> live_;
  std::vector<Channel> channels_;
  Simulation out_;
};

}  // namespace simulate_detail

SimulationCosts unit_costs(int chunks) {
  SimulationCosts costs;
  costs.op = [chunks](int, const ScheduleOp& op) {
    return (op.kind == ScheduleOp::Kind::Backward ? 2.0 : 1.0) / chunks;
  };
  return costs;
}

Simulation simulate(const Schedule& schedule, const SimulationCosts& costs,
                    const SimulationOptions& options) {
  return simulate_detail::Run(schedule, costs, options).run();
}

double Simulation::bubble_share() const {
  double sum = 0;
  for (const double stage : idle) sum += stage;
  return makespan > 0 ? sum / (makespan * static_cast<double>(idle.size())) : 0;
}

}  // namespace strata
