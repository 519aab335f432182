#pragma once
// Applies rules to a sharded model: one global norm over the job with an exact element-count audit,
// clipping, master weights for 16-bit parameters, updates where the state is, new values to all who
// hold them. Knows ranks, never formulas.
//
//   norm = sqrt(sum g^2) * 2^k/N     coef = min(1, max_norm / (norm + 1e-6)) * 2^k/N
//   (parallel-runtime.md 6, 11)
//
// Rules on slices update what a rank holds. A matrix of a rule on matrices has one owner
// (matrix_owners.h) with its master and state; where the owner does not hold all of it, gradients
// come in exchanges of limited size, the first of which is under way while slices and whole
// matrices are updated, and new values go back in the compute type (optimizers-distributed.md 3).
// Shared matrices stay where they are: the rule adds up what it must over their owners.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "optim/non_finite.h"
#include "optim/optimizer_tensor.h"
#include "optim/rule_set.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/engine/manager.h"

namespace strata {

struct StepInfo {
  int64_t step = 0;  // number of updates applied before this one
  double lr = 0;     // schedule value at this step, without the parameter's lr_scale
  double decay = 1;  // factor of the rules' weight decay
};

// Which gradients clipping scales: all, or those of the companion of a rule on matrices, by their
// own norm. Rules that orthogonalise do not depend on the scale of one gradient.
enum class ClipScope { All, Companion };

struct OptimizerOptions {
  double max_grad_norm = 1.0;  // 0: no clipping
  ClipScope clip = ClipScope::All;
  bool audit = false;       // element count every step; always on the first step
  bool exact_norm = false;  // to the last bit in every layout (exact_norm.h)
  int64_t exchange_bytes = int64_t{256} << 20;  // of a round of the exchange
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
  // The model must have been built with prepare(options, *rules).
  static void prepare(ManagerOptions& options, const RuleSet& rules);
  DistributedOptimizer(ParallelManager& model, std::shared_ptr<const RuleSet> rules,
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
  // rounding), and whole matrices at their owners.
  void load_masters(const WeightSource& source);

  // Collective: /model/<name> (master where one exists), /optim/<name>/<slot> for state like the
  // parameter, /optim/<name>/<rule>/<matrix>/<slot> for state of a logical matrix, and
  // /optim/<name>/t, the number of updates it has seen.
  void save(CheckpointWriter& out) const;
  // Weights, masters and state of this rank; kinds of rules must match unless reset
  // (ckpt.reset_optim). Reads files and can fail on one rank alone: agree, then call
  // model.weights_changed().
  using Reset = OptimizerReset;
  void load(const CheckpointReader& in, Reset reset = Reset::None);

  // Everything this rank updates: its weights (masters where they exist) and its state.
  void for_tensors(const std::function<void(const OptimizerTensor&)>& f) const;

  int64_t state_bytes() const;  // of this rank: masters and slots
  // Of gradients and new values of matrices and of sums of shared ones, sent and received by this
  // rank in a step (a sum over P ranks: 2 (P - 1) / P of its bytes each way).
  int64_t exchange_bytes() const;
  // What the last step multiplied gradients of slices with before clipping: 2^k / N.
  double gradient_scale() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
