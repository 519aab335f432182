#include "launch/verify_trace.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "launch/failure.h"
#include "launch/replay_model.h"
#include "launch/run_plan.h"
#include "launch/update_trace.h"
#include "optim/distributed_optimizer.h"
#include "parallel/engine/gather.h"

namespace strata {
namespace verify_trace_detail {

// Rows that all layouts of these ranks can divide; a power of two where there is one, so that
// gradients are exact.
int64_t rows_for(int world, int64_t microbatches) {
  const int64_t least = world * microbatches;
  return std::has_single_bit(static_cast<uint64_t>(world))
             ? static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(least)))
             : least;
}

Batch rows_of(int64_t rows, int64_t step) {
  Batch batch;
  batch.tokens = at::zeros({rows, 1}, at::TensorOptions().dtype(at::kLong));
  batch.labels = batch.tokens;
  batch.positions = batch.tokens;
  batch.step = step;
  return batch;
}

// Bases that the trace goes on with after its first step.
void replace_bases(DistributedOptimizer& optimizer, const UpdateTrace& trace) {
  optimizer.for_tensors([&](const OptimizerTensor& t) {
    const char* side = t.slot == "Q_L" ? "left" : t.slot == "Q_R" ? "right" : nullptr;
    if (side == nullptr) return;
    const auto base = trace.bases.find(cat(t.meta->name, ".", side));
    if (base == trace.bases.end()) return;
    Tensor values = t.values;
    values.copy_(base->second);
  });
}

class GroupReplay {
 public:
  GroupReplay(const UpdateTrace& trace, const TraceGroup& group, const PlanSection& plan,
              at::ScalarType dtype, Runtime& runtime)
      : trace_(trace), group_(group) {
    for (const std::string& name : group.names)
      parameters_.push_back({name, trace.start.at(name), trace.gradients.at(name)});
    const auto spec = make_replay_model(parameters_);
    rows_ = rows_for(runtime.world(), plan.microbatches);
    plan_ = same_everywhere([&] { return make_run_plan(plan, *spec, runtime.world(), rows_, 1); });
    ManagerOptions options;
    options.dtype = dtype;
    options.device = runtime.device();
    DistributedOptimizer::prepare(options, *group.rules);
    model_ = ParallelManager::build(spec, plan_, runtime.pool(), options);
    const auto source = make_replay_weights(parameters_);
    model_->load_weights(*source);
    optimizer_ = std::make_unique<DistributedOptimizer>(
        *model_, group.rules, OptimizerOptions{.max_grad_norm = 0, .audit = true});
    optimizer_->load_masters(*source);
  }

  // On the first rank: the largest error of each parameter.
  std::map<std::string, double> run() {
    std::map<std::string, double> worst;
    for (int64_t step = 0; step < trace_.steps; ++step) {
      std::vector<Batch> microbatches;
      const Batch all = rows_of(rows_, step);
      for (int64_t m = 0; m < plan_.microbatches; ++m) {
        const Range rows = model_->rows_needed(m);
        microbatches.push_back(all.slice(rows.begin, rows.end));
        microbatches.back().step = step;
      }
      const StepLoss loss = model_->forward_backward(microbatches);
      (void)optimizer_->step({step, group_.lr}, loss);
      if (step == 0) replace_bases(*optimizer_, trace_);
      for (auto& [name, value] :
           gather_logical(*model_, [](const OwnedSlice& s) { return s.value; }))
        worst[name] = std::max(worst[name], error(name, value, step));
    }
    return worst;
  }

 private:
  // NaN counts as infinite.
  double error(const std::string& name, const Tensor& value, int64_t step) const {
    const Tensor expected = trace_.weights.at(name)[step];
    const double wrong = (value.to(at::kDouble) - expected).norm().item<double>();
    double size = (expected - trace_.start.at(name)).norm().item<double>();
    if (size == 0) size = expected.norm().item<double>();
    const double out = size > 0 ? wrong / size : wrong;
    return std::isnan(out) ? INFINITY : out;
  }

  const UpdateTrace& trace_;
  const TraceGroup& group_;
  std::vector<ReplayParameter> parameters_;
  int64_t rows_ = 1;
  Plan plan_;
  std::unique_ptr<ParallelManager> model_;
  std::unique_ptr<DistributedOptimizer> optimizer_;
};

}  // namespace verify_trace_detail

void verify_update_trace(const std::string& path, const PlanSection& plan, at::ScalarType dtype,
                         Runtime& runtime, ParityReport& report) {
  using namespace verify_trace_detail;
  if (plan.sequence_parallel || plan.from_file) {
    throw ConfigError(plan.from_file ? "plan.file" : "plan.sequence_parallel",
                      plan.from_file ? cat('"', plan.file, '"') : "true",
                      "tp, pp, zero, shards, microbatches for recorded updates",
                      " (they have one token and a layer per parameter)");
  }
  UpdateTrace trace;
  together(runtime.job(), [&] { trace = read_update_trace(path); });
  for (const TraceGroup& group : trace.groups) {
    GroupReplay replay(trace, group, plan, dtype, runtime);
    for (const auto& [name, error] : replay.run()) report.add(cat("w.", name), error);
  }
}

}  // namespace strata
