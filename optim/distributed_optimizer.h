#pragma once
// Applies rules to a sharded model: one global norm over the job with an exact element-count audit,
// clipping, master weights for 16-bit parameters, decay, update, write-back. Knows ranks, never
// formulas.
//
//   norm = sqrt(sum g^2) * 2^k/N     coef = min(1, max_norm / (norm + 1e-6)) * 2^k/N
//   (parallel-runtime.md 6, 11)
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "optim/non_finite.h"
#include "optim/update_rule.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/engine/manager.h"

namespace strata {

struct StepInfo {
  int64_t step = 0;  // number of updates applied before this one
  double lr = 0;     // schedule value at this step, without the parameter's lr_scale
  double decay = 1;  // factor of the rules' weight decay
};

struct OptimizerOptions {
  double max_grad_norm = 1.0;  // 0: no clipping
  bool audit = false;          // element count every step; always on the first step
  bool exact_norm = false;     // to the last bit in every layout (exact_norm.h)
};

struct StepReport {
  double loss = 0;  // mean over counted labels, natural logarithm
  int64_t counted = 0;
  double grad_norm = 0;  // of all gradients, before clipping
  bool skipped = false;  // non-finite gradient or no counted label: nothing was touched
  std::optional<NonFinite> non_finite;  // what it was
  bool stop = false;                    // some rank asked to stop
};

class DistributedOptimizer {
 public:
  // The first rule whose accepts() is true takes the parameter; a parameter nobody takes is a
  // ConfigError.
  DistributedOptimizer(ParallelManager& model, std::vector<std::unique_ptr<UpdateRule>> rules,
                       OptimizerOptions options);
  ~DistributedOptimizer();

  // Collective over the job. loss: this rank's share from forward_backward; stop: this rank wants
  // to end after this step. Updates parameters and calls model.weights_changed(). Does not throw
  // for non-finite gradients (skipped).
  StepReport step(const StepInfo& info, const StepLoss& loss, bool stop = false);

  // Weights from `weights`; state from the checkpoint where it has some of that name and shape,
  // zeros elsewhere. The caller calls model.weights_changed().
  void load_converted(const WeightSource& weights, const CheckpointReader& state);
  // Fills masters of 16-bit parameters from the same source as the weights (fp32 values before
  // rounding).
  void load_masters(const WeightSource& source);

  // Collective: /model/<name> (master where one exists) and /optim/<name>/<slot>.
  void save(CheckpointWriter& out) const;
  // Weights, masters and state of this rank; kinds of rules must match unless reset
  // (ckpt.reset_optim). Reads files and can fail on one rank alone: agree, then call
  // model.weights_changed().
  enum class Reset { None, All };
  void load(const CheckpointReader& in, Reset reset = Reset::None);

  // Calls f(slot, slice, values) for everything this rank updates: its weights (masters where they
  // exist) with slot "master", and each slot of its state. values: flat over slice.update.
  void for_pieces(
      const std::function<void(const std::string&, const OwnedSlice&, const Tensor&)>& f) const;

  std::string rule_of(const std::string& parameter) const;
  int64_t state_bytes() const;  // of this rank: masters and slots
  // What the last step multiplied gradients of slices with before clipping: 2^k / N.
  double gradient_scale() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
