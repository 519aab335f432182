#pragma once
// A model, its optimizer and its communicators under one uniform plan, for comparing layouts.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optim/distributed_optimizer.h"
#include "parallel/engine/manager.h"
#include "tests/support/tiny_models.h"

namespace strata::testing {

struct RunSetup {
  int tp = 1;
  Recompute recompute = Recompute::None;
  int64_t global_batch = 8, microbatches = 2, length = 20;
  at::ScalarType dtype = at::kDouble;
  int64_t vocabulary_unit = 1;
  double max_grad_norm = 0;
  bool packed = false;
  std::string rule = "sgd";
};

class ModelRun {
 public:
  // job: all ranks take part. dp = job size / tp.
  ModelRun(const TinyModel& model, const RunSetup& setup, std::unique_ptr<Communicator> job)
      : ModelRun(make_tiny(model), setup, std::move(job)) {}
  ModelRun(std::shared_ptr<const ModelSpec> spec, const RunSetup& setup,
           std::unique_ptr<Communicator> job);

  StepLoss forward_backward(int64_t step);
  StepReport step(int64_t step, double lr);  // forward_backward + optimizer
  ParallelManager& manager() { return *manager_; }
  DistributedOptimizer& optimizer() { return *optimizer_; }
  // This rank's parts, cloned.
  std::map<std::string, Tensor> weights() const;
  std::map<std::string, Tensor> gradients() const;  // scaled, as used by the last step

 private:
  std::shared_ptr<const ModelSpec> spec_;
  RunSetup setup_;
  std::unique_ptr<CommPool> pool_;
  std::unique_ptr<ParallelManager> manager_;
  std::unique_ptr<DistributedOptimizer> optimizer_;
};

// ||a - b|| / ||reference||, Frobenius; absolute when the reference is 0.
double relative_error(const Tensor& a, const Tensor& b, const Tensor& reference);

}  // namespace strata::testing
