#pragma once
// Runs a model under a plan: builds this rank's layers, attaches storage, runs forward and backward
// over micro-batches, reduces gradients. The optimizer and the trainer see only this.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "parallel/comm/pool.h"
#include "parallel/engine/matrix_owners.h"
#include "parallel/engine/parameter_buffers.h"
#include "parallel/engine/weight_source.h"
#include "parallel/nn/model_spec.h"
#include "parallel/plan/plan.h"
#include "parallel/plan/simulate.h"

namespace strata {

struct StepLoss {
  double loss_sum = 0;  // natural logarithm, this rank's share: sum over the job gives the step's
  int64_t counted = 0;  // labels that carry loss, this rank's share
  int64_t correct = 0;  // arg-max predictions that were right; forward_only, this rank's share
};

struct ManagerOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  uint64_t seed = 0;
  int64_t vocabulary_unit = 128;
  // runtime.deterministic = invariant: sums over micro-batches in a fixed tree, so that dp, stages,
  // ZeRO 0 or 1 and recomputation leave every bit alone. Needs check_canonical().
  bool canonical_sums = false;
  // Parameters that the optimizer updates as whole matrices; none without it.
  MatrixCost matrix_cost = {};
  MatrixSharing matrix_sharing = {};
};

// Why sums of this plan cannot be canonical, one sentence each; empty when they can.
std::vector<std::string> check_canonical(const Plan& plan);

struct MemoryForecast;  // parallel/engine/memory_forecast.h

class ParallelManager {
 public:
  // Collective over pool.job(). The plan must have passed check_plan.
  static std::unique_ptr<ParallelManager> build(std::shared_ptr<const ModelSpec> spec,
                                                const Plan& plan, CommPool& pool,
                                                const ManagerOptions& options);
  virtual ~ParallelManager() = default;

  virtual const ModelSpec& spec() const = 0;
  virtual const Plan& plan() const = 0;
  virtual CommPool& pool() = 0;

  // Rows of global micro-batch m that this rank must be given: numbers within the global batch.
  virtual Range rows_needed(int64_t microbatch) const = 0;

  // Collective. Fills every parameter from a source.
  virtual void load_weights(const WeightSource& source) = 0;

  // Collective. One Batch per micro-batch, holding rows_needed(m). Gradients of every parameter are
  // complete (summed over tp, micro-batches and dp) when this returns, multiplied by
  // 2^-loss_exponent.
  virtual StepLoss forward_backward(std::span<const Batch> microbatches) = 0;
  virtual StepLoss forward_only(std::span<const Batch> microbatches) = 0;
  // Collective. [B, T, V] for rows given whole to every rank (every rank passes the same rows), no
  // gradient.
  virtual Tensor logits(const Batch& batch) = 0;

  // k of the scale 2^-k put on the loss: round(log2(tokens per step)).
  virtual int loss_exponent() const = 0;

  virtual std::span<Parameter* const>
  parameters() = 0;  // of this rank, shared ones once, in layer order
  virtual std::span<const OwnedSlice> owned_slices() const = 0;   // of what is trained
  virtual std::span<const OwnedSlice> frozen_slices() const = 0;  // of the rest: no gradient
  // Matrices that ranks of this stage update as wholes (ManagerOptions::matrix_cost).
  virtual const MatrixPlacement& matrices() const = 0;
  virtual Communicator& stage_ranks() = 0;
  virtual Communicator& tp_ranks(int layer) = 0;  // of a layer of this stage
  virtual int64_t logical_elements() const = 0;   // of what is trained, in the whole model
  // Seconds spent waiting in the last forward_backward: for gradient sums, and for the stages
  // before and after this one.
  virtual double exposed_reduction_s() const = 0;
  virtual double pipeline_wait_s() const = 0;
  // When this rank's operations of the last forward_backward ran, in seconds from its start.
  virtual std::span<const SimulatedOp> timeline() const = 0;

  // Collective; after values of owned slices were written (optimizer step, load).
  virtual void weights_changed() = 0;
  virtual BufferBytes buffer_bytes() const = 0;
  // Collective over the job. Runs layers on `like`, a batch as forward_backward() gets them.
  virtual MemoryForecast forecast_memory(const Batch& like) = 0;
};

}  // namespace strata
