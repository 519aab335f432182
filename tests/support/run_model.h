#pragma once
// A model, its optimizer and its communicators under one plan, for comparing layouts.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optim/optimizer_plan.h"
#include "parallel/engine/manager.h"
#include "tests/support/tiny_models.h"

namespace strata::testing {

struct RunSetup {
  LayerStrategy strategy;  // dp is filled in
  int pp = 1, chunks = 1;
  std::string schedule = "1f1b";
  std::function<void(Plan&)> edit;  // of the uniform plan: mixed layers, uneven stages
  int64_t global_batch = 8, microbatches = 2, length = 20;
  at::ScalarType dtype = at::kDouble;
  int64_t vocabulary_unit = 1;
  double max_grad_norm = 0;
  bool packed = false, canonical = false;
  std::string rule = "sgd";
  int64_t exchange_bytes = 16384;  // several rounds also of tiny models
  std::string rule_keys;           // "optim.rank = 4" and so on, lines of a run file's [optim]

  RunSetup serial() const;  // the same for one process
};

class ModelRun {
 public:
  // job: all ranks take part.
  ModelRun(const TinyModel& model, const RunSetup& setup, std::unique_ptr<Communicator> job)
      : ModelRun(make_tiny(model), setup, std::move(job)) {}
  ModelRun(std::shared_ptr<const ModelSpec> spec, const RunSetup& setup,
           std::unique_ptr<Communicator> job);

  StepLoss forward_backward(int64_t step);
  StepReport step(int64_t step, double lr);  // forward_backward + optimizer
  ParallelManager& manager() { return *manager_; }
  DistributedOptimizer& optimizer() { return *optimizer_; }
  OptimizerPlan optimizer_plan() const;  // found without running
  bool first() { return pool_->job().rank() == 0; }
  // Collective. Logical tensors in fp64, on the first rank; elsewhere nothing.
  std::map<std::string, Tensor> weights() const;
  std::map<std::string, Tensor> gradients() const;  // scaled, as used by the last step

 private:
  std::shared_ptr<const ModelSpec> spec_;
  RunSetup setup_;
  std::unique_ptr<CommPool> pool_;
  ManagerOptions options_;
  OptimizerOptions optimizer_options_;
  std::shared_ptr<const RuleSet> rules_;
  std::unique_ptr<ParallelManager> manager_;
  std::unique_ptr<DistributedOptimizer> optimizer_;
};

// ||a - b|| / ||reference||, Frobenius; absolute when the reference is 0.
double relative_error(const Tensor& a, const Tensor& b, const Tensor& reference);

// relative_error of a parameter's gradient, except that in the first connection of residual streams
// (x.0.hc_attn), where all streams are equal and gradients of mixing logits are 0 but for rounding,
// the reference is at least a thousandth of the norm of all gradients.
double gradient_error(const std::string& name, const Tensor& a, const Tensor& reference,
                      double norm_of_all);
bool zero_but_for_rounding(const std::string& parameter);

}  // namespace strata::testing
