#pragma once
// The checkpoints of a run: what to start from, when a save failed too often, what is deleted.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/run_config.h"
#include "launch/runtime.h"
#include "optim/distributed_optimizer.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/engine/manager.h"

namespace strata {

// Where a run stands; all of it is stored with the weights.
struct RunPosition {
  int64_t step = 0;                 // steps done, skipped ones included
  int64_t updates = 0;              // steps that changed the weights
  int64_t samples = 0, tokens = 0;  // consumed since the start of the run
  std::vector<int64_t> skipped;     // recent skipped steps
  double loss = 0, grad_norm = 0;   // of the last step, for lists of checkpoints
};

// Names and shapes of /model that differ between a model and a checkpoint, one sentence each. Pure.
std::vector<std::string> model_differences(const std::vector<ParamMeta>& model,
                                           const std::map<std::string, TensorInfo>& stored);
std::string fingerprint_of(const ModelSpec& model);

class RunCheckpoints {
 public:
  RunCheckpoints(const RunConfig& config, Runtime& runtime);

  // Collective. Fills weights and optimizer: from the newest checkpoint, the one that ckpt.resume
  // names, ckpt.init, or fresh. Damaged checkpoints are passed over (ckpt.fallbacks) and renamed.
  // Throws AgreedError.
  RunPosition start(ParallelManager& model, DistributedOptimizer& optimizer,
                    const std::string& data_fingerprint);

  // Collective. false: it failed, but fewer than ckpt.max_failures times in a row; then AgreedError
  // (exit code 9).
  bool save(const RunPosition& position, ParallelManager& manager,
            const DistributedOptimizer& optimizer, const std::string& data_fingerprint);

  // Collective. The newest valid checkpoint, or the one ckpt.resume names; empty when there is none
  // or none is wanted.
  std::filesystem::path find();

  const std::string& newest() const noexcept {
    return newest_;
  }  // directory name, "" before the first
  int64_t newest_step() const noexcept { return newest_step_; }  // -1 before the first
  const std::filesystem::path& root() const noexcept { return root_; }

 private:
  std::optional<RunPosition> resume(const std::filesystem::path& directory, ParallelManager& model,
                                    DistributedOptimizer& optimizer,
                                    const std::string& data_fingerprint);
  RunPosition start_fresh(ParallelManager& model, DistributedOptimizer& optimizer);
  RunPosition start_warm(const std::filesystem::path& directory, ParallelManager& model,
                         DistributedOptimizer& optimizer);
  void check_resumable(const CheckpointReader& reader, const ModelSpec& model,
                       const std::string& data_fingerprint) const;
  void check_no_newer(int64_t step);
  void set_aside(const std::filesystem::path& directory);

  const RunConfig& config_;
  Runtime& runtime_;
  std::filesystem::path root_;
  std::string newest_, parent_;
  int64_t newest_step_ = -1;
  int64_t failures_ = 0;
};

// Collective. Weights of a checkpoint directory, or of ckpt.init, for eval and sample. Throws
// AgreedError.
void load_weights_only(const RunConfig& config, Runtime& runtime, ParallelManager& model,
                       const std::filesystem::path& directory);

}  // namespace strata
