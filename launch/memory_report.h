#pragma once
// What a run's tensors will take on every rank, told before the first step, and what they took.
// Counts tensors on the CPU (core/memory_meter.h), not the program and its libraries.
#include <cstdint>
#include <vector>

#include "core/batch.h"
#include "optim/distributed_optimizer.h"
#include "parallel/engine/manager.h"

namespace strata {

class MemoryReport {
 public:
  // Collective over the job. like: a micro-batch of this rank. Logs the fullest rank's forecast.
  void forecast(ParallelManager& model, const DistributedOptimizer& optimizer, const Batch& like);
  // Collective over the job. Logs the fullest rank's peak since forecast() beside it; once.
  void measured(Communicator& job);

 private:
  int64_t forecast_ = 0;  // of this rank
  int64_t before_ = 0;    // what else was held then
  bool told_ = true;
};

}  // namespace strata
