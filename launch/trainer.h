#pragma once
// The training loop: rows in, weights out, and everything around one step (metrics, evaluation,
// samples, checkpoints, requests from outside). It knows no tensor rank: sharding is below
// ParallelManager and DistributedOptimizer.
#include <memory>
#include <optional>

#include "data/prefetch.h"
#include "launch/evaluation.h"
#include "launch/memory_report.h"
#include "launch/metrics.h"
#include "launch/run_checkpoints.h"
#include "launch/run_config.h"
#include "launch/runtime.h"
#include "launch/signals.h"
#include "launch/skip_policy.h"
#include "launch/tensorboard.h"
#include "launch/throughput.h"
#include "optim/distributed_optimizer.h"

namespace strata {

class Trainer {
 public:
  // config.train_data must be open. Both must outlive the trainer.
  Trainer(const RunConfig& config, Runtime& runtime);
  ~Trainer();

  // Collective over the job. Builds, loads and trains until train.steps or a request to stop.
  // Returns 0, or 75 when it stopped early with everything saved. Throws AgreedError, or what one
  // rank alone failed with.
  int run();
  int64_t step() const noexcept { return position_.step; }

 private:
  // Preparation, in order.
  void check_alike();
  void choose_model();
  void build();
  void open_validation();
  void restore();
  void open_records();
  void start_reading();
  void forecast_memory();

  // train.densify_at: the model is built anew with dense linears.
  bool densify_due() const;
  void densify();

  // One step and what may follow it.
  StepRecord train_step();
  void evaluate_if_due(StepRecord& record);
  void sample_if_due(int64_t step);
  void record(const StepRecord& record);
  void save_if_due(Request request);
  void save();
  Request agree_on_request(const StepReport& report);
  void take_request_files();
  void audit_if_due(bool saving);
  std::string skip_reason() const;
  void check_finite();
  int finish(int code);
  void write_status(const std::string& state, int code = -1) const;

  int64_t batch_tokens() const { return config_.train.batch * config_.data.sequence_length; }
  bool done() const { return position_.step >= config_.train.steps; }

  const RunConfig& config_;
  Runtime& runtime_;
  RunCheckpoints checkpoints_;
  std::shared_ptr<const ModelSpec> spec_;  // config_.model, or its dense form
  Plan plan_;
  std::unique_ptr<ParallelManager> model_;
  std::unique_ptr<DistributedOptimizer> optimizer_;
  std::unique_ptr<DataSource> valid_data_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Prefetcher> prefetcher_;
  std::optional<MetricsFile> metrics_;
  std::optional<TensorBoardWriter> tensorboard_;
  RunPosition position_;
  SkipPolicy skips_;
  StepTimer timer_;
  MemoryReport memory_;
  StepReport last_report_;
  Request file_request_ = Request::None;  // rank 0: from STOP and SAVE
  double flops_per_step_ = 0, peak_flops_ = 0, data_waited_s_ = 0;
};

}  // namespace strata
