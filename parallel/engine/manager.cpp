#include "parallel/engine/manager.h"

#include <ATen/core/grad_mode.h>

#include <bit>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "parallel/engine/executor.h"
#include "parallel/engine/memory_forecast.h"
#include "parallel/engine/stage.h"

namespace strata {
namespace manager_detail {

class Manager final : public ParallelManager {
 public:
  Manager(std::shared_ptr<const ModelSpec> spec, const Plan& plan, CommPool& pool,
          const ManagerOptions& options)
      : spec_(std::move(spec)),
        plan_(plan),
        pool_(pool),
        options_(options),
        stage_(*spec_, plan_, pool, options),
        executor_(*spec_, plan_, pool, stage_, options) {
    std::set<std::string> seen;
    for (StageLayer& layer : stage_.layers()) {
      for (Parameter* p : layer.parameters) {
        if (seen.insert(p->meta.name).second) parameters_.push_back(p);
      }
    }
    for (const ParamMeta& meta : parameter_metas(*spec_))
      logical_elements_ += meta.trainable ? meta.elements() : 0;
  }

  const ModelSpec& spec() const override { return *spec_; }
  const Plan& plan() const override { return plan_; }
  CommPool& pool() override { return pool_; }
  std::span<Parameter* const> parameters() override { return parameters_; }
  std::span<const OwnedSlice> owned_slices() const override { return buffers().slices(); }
  std::span<const OwnedSlice> frozen_slices() const override { return buffers().frozen(); }
  const MatrixPlacement& matrices() const override { return stage_.matrices(); }
  Communicator& stage_ranks() override { return stage_.ranks(); }
  Communicator& tp_ranks(int layer) override { return stage_.layer(layer).layout.tp(); }
  int64_t logical_elements() const override { return logical_elements_; }
  double exposed_reduction_s() const override { return buffers().waited_s(); }
  double pipeline_wait_s() const override { return executor_.waited_s(); }
  std::span<const SimulatedOp> timeline() const override { return executor_.timeline(); }
  BufferBytes buffer_bytes() const override { return buffers().bytes(); }
  int loss_exponent() const override { return loss_exponent_; }

  // Canonical sums want the micro-batches of one rank to be neighbours in the tree.
  Range rows_needed(int64_t microbatch) const override {
    const Range rows = executor_.rows();
    const int64_t begin = options_.canonical_sums
                              ? rows.begin * plan_.microbatches + microbatch * rows.size()
                              : microbatch * plan_.rows_per_microbatch() + rows.begin;
    return {begin, begin + rows.size()};
  }

  void load_weights(const WeightSource& source) override {
    at::NoGradGuard no_grad;
    for (const auto* slices : {&buffers().slices(), &buffers().frozen()}) {
      for (const OwnedSlice& slice : *slices) {
        for_boxes(slice, slice.value, [&](const Box& box, Tensor part) {
          part.copy_(source.read(*slice.parameter, box, part.scalar_type()));
        });
      }
    }
    weights_changed();
  }

  StepLoss forward_backward(std::span<const Batch> microbatches) override {
    STRATA_CHECK(static_cast<int64_t>(microbatches.size()) == plan_.microbatches,
                 cat(microbatches.size(), " micro-batches, the plan has ", plan_.microbatches));
    set_scale(microbatches);
    return executor_.forward_backward(on_device(microbatches, true),
                                      std::ldexp(1.0, -loss_exponent_));
  }

  MemoryForecast forecast_memory(const Batch& like) override {
    return strata::forecast_memory(*spec_, plan_, stage_, options_,
                                   on_device(std::span(&like, 1), true).front());
  }

  StepLoss forward_only(std::span<const Batch> microbatches) override {
    return executor_.forward(on_device(microbatches, false));
  }

  Tensor logits(const Batch& rows) override {
    return executor_.logits(on_device(std::span(&rows, 1), false).front());
  }

  void weights_changed() override {
    buffers().values_changed();
    for (StageLayer& layer : stage_.layers()) {
      if (!layer.runner->layer().watches_weights()) continue;
      buffers().need(layer.index);
      layer.runner->layer().weights_changed();
      buffers().release(layer.index);
    }
  }

 private:
  ParameterBuffers& buffers() { return stage_.buffers(); }
  const ParameterBuffers& buffers() const { return stage_.buffers(); }

  std::vector<Batch> on_device(std::span<const Batch> batches, bool training) const {
    std::vector<Batch> out(batches.begin(), batches.end());
    for (size_t m = 0; m < out.size(); ++m) {
      Batch& b = out[m];
      for (Tensor* t : {&b.tokens, &b.labels, &b.positions, &b.segments}) {
        if (t->defined()) *t = t->to(options_.device);
      }
      if (!b.positions.defined())
        b.positions = default_positions(b.rows(), b.length()).to(options_.device);
      b.training = training;
      if (training) b.first_row = rows_needed(static_cast<int64_t>(m)).begin;
    }
    return out;
  }

  void set_scale(std::span<const Batch> microbatches) {
    const int64_t length = microbatches.empty() ? 1 : microbatches[0].length();
    loss_exponent_ =
        static_cast<int>(std::lround(std::log2(static_cast<double>(plan_.global_batch * length))));
  }

  std::shared_ptr<const ModelSpec> spec_;
  Plan plan_;
  CommPool& pool_;
  ManagerOptions options_;
  Stage stage_;
  Executor executor_;
  std::vector<Parameter*> parameters_;
  int64_t logical_elements_ = 0;
  int loss_exponent_ = 0;
};

}  // namespace manager_detail

std::unique_ptr<ParallelManager> ParallelManager::build(std::shared_ptr<const ModelSpec> spec,
                                                        const Plan& plan, CommPool& pool,
                                                        const ManagerOptions& options) {
  return std::make_unique<manager_detail::Manager>(std::move(spec), plan, pool, options);
}

std::vector<std::string> check_canonical(const Plan& plan) {
  std::vector<std::string> out;
  const auto add = [&](const std::string& text) {
    out.push_back(cat("runtime.deterministic: got invariant, but ", text));
  };
  const LayerStrategy& first = plan.layers.at(0);
  for (const LayerStrategy& s : plan.layers) {
    if (s.dp != first.dp) {
      add("layers differ in dp (one dp for all layers is needed)");
      break;
    }
  }
  for (const LayerStrategy& s : plan.layers) {
    if (s.zero >= 2) {
      add(cat("zero is ", s.zero,
              " (0 or 1 is needed: 2 and 3 add micro-batches in another order)"));
      break;
    }
  }
  const auto power = [](int64_t n) { return std::has_single_bit(static_cast<uint64_t>(n)); };
  if (!power(first.dp)) add(cat("dp is ", first.dp, " (a power of two is needed)"));
  if (!power(plan.microbatches))
    add(cat("plan.microbatches is ", plan.microbatches, " (a power of two is needed)"));
  return out;
}

}  // namespace strata
