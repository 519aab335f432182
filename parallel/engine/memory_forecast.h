#pragma once
// How much memory a step will take on this rank, before the first one. What buffers and the
// optimizer hold is known; what a layer keeps from forward to backward, and what it needs while it
// runs, is measured on one micro-batch of each kind of layer; how many micro-batches are in flight
// follows from the schedule.
#include <cstdint>

#include "core/batch.h"
#include "parallel/engine/stage.h"
#include "parallel/plan/plan.h"

namespace strata {

struct MemoryForecast {
  BufferBytes buffers;
  int64_t activations = 0;  // kept for backward passes at the schedule's peak
  int64_t transient = 0;    // the most that one layer needs beside them while it runs, and what is
                            // between stages
  int in_flight = 0;        // micro-batches (with chunks: parts of them) at that peak

  int64_t total() const {
    return buffers.values + buffers.gathered + buffers.gradients + buffers.scratch + activations +
           transient;
  }
};

// Collective over the stage. Needs memory_meter. like: one micro-batch as training will see it,
// rows as rows_needed() says; its contents do not matter. Gradients of parameters are dropped.
MemoryForecast forecast_memory(const ModelSpec& spec, const Plan& plan, Stage& stage,
                               const ManagerOptions& options, const Batch& like);

}  // namespace strata
