#pragma once
// Runs the layers of one rank in the order of a pipeline schedule: activations come from the layer
// or stage before, gradients from the one after, weights of ZeRO 3 are there when a layer needs
// them and the next layer's are on their way. One stage is a pipeline of one.
#include <chrono>
#include <span>
#include <vector>

#include "core/batch.h"
#include "parallel/engine/borders.h"
#include "parallel/engine/pipeline_links.h"
#include "parallel/engine/stage.h"
#include "parallel/plan/simulate.h"

namespace strata {

class Executor {
 public:
  Executor(const ModelSpec& spec, const Plan& plan, CommPool& pool, Stage& stage,
           const ManagerOptions& options);

  // Rows of a micro-batch that this rank's layers see, numbers within the micro-batch.
  Range rows() const noexcept { return rows_; }

  // Collective over the job. batches: one per micro-batch, holding rows(), on the device.
  // loss_scale: gradient of the loss of one token.
  StepLoss forward_backward(std::span<const Batch> batches, double loss_scale);
  StepLoss forward(std::span<const Batch> batches);
  // [B, T, V] on every rank, for rows given whole to every rank.
  Tensor logits(const Batch& batch);

  double waited_s() const noexcept { return links_.waited_s(); }  // for other stages, last step
  // When this rank's operations of the last forward_backward ran, in seconds from its start;
  // waiting for activations and gradients is between them.
  const std::vector<SimulatedOp>& timeline() const noexcept { return timeline_; }

 private:
  // The layers in the order in which a run visits them, so that weights can be fetched ahead.
  class Walk {
   public:
    Walk(ParameterBuffers& buffers, std::vector<int> visits)
        : buffers_(buffers), visits_(std::move(visits)) {}
    void enter(int layer);
    void leave();

   private:
    ParameterBuffers& buffers_;
    std::vector<int> visits_;
    size_t at_ = 0;
  };

  enum class Mode { Train, Evaluate, Logits };
  struct Run {
    Mode mode;
    std::span<const Batch> batches;
    MicrobatchShape shape;
    double loss_scale = 0;
    Walk walk;
    std::vector<int64_t> backwards;  // by layer: micro-batches whose gradients were added
  };
  Run begin(Mode mode, std::span<const Batch> batches, const Schedule& schedule);
  Tensor forward_chunk(Run& run, int chunk, int microbatch);  // output of its last layer
  void backward_chunk(Run& run, const ScheduleOp& op);
  void weight_chunk(Run& run, const ScheduleOp& op);
  void add_gradients(Run& run, int layer);
  Batch batch_of(const Run& run, int layer, int microbatch) const;
  StepLoss loss_of(const Tensor& result, const Batch& batch);
  double now_s() const;  // since the step began
  int part(int chunk) const { return chunk * plan_->stages + stage_->index(); }
  bool last_part(int chunk) const { return part(chunk) + 1 == plan_->stages * plan_->chunks; }

  const ModelSpec* spec_;
  const Plan* plan_;
  CommPool* pool_;
  Stage* stage_;
  at::ScalarType dtype_;
  at::Device device_;
  Schedule training_, evaluation_;
  Borders borders_;
  PipelineLinks links_;
  Range rows_;
  std::vector<SimulatedOp> timeline_;
  std::chrono::steady_clock::time_point step_begin_;
};

}  // namespace strata
