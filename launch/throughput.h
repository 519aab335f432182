#pragma once
// How fast a run is, against what the machine can do.
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "launch/metrics.h"
#include "parallel/comm/communicator.h"
#include "parallel/nn/model_spec.h"

namespace strata {

// Matrix-multiply FLOPs of one training step (forward and backward, three times the forward pass).
// Pure.
double flops_per_step(const ModelSpec& model, int64_t rows, int64_t time);

// FLOP/s of a matrix product in `dtype`, all ranks at once, summed over the job: the most that
// training could reach. Collective; takes a few tenths of a second.
double measure_peak(Communicator& job, const at::Device& device, at::ScalarType dtype);

// Peak resident size of this process so far.
int64_t peak_memory_bytes();

// Median of the last times, for the remaining time and progress lines; slow first steps do not
// spoil it.
class StepTimer {
 public:
  void add(double seconds);
  double median_s() const;

 private:
  std::vector<double> times_;
  size_t next_ = 0;
};

// "step   120/1000  loss 2.3412  lr 3.00e-04  norm 0.84  12.3k tok/s  81ms  mfu 31%  mem 412 MiB
// eta 1m12s"
std::string step_line(const StepRecord& record, int64_t steps, double median_s);
std::string eval_line(const EvalResult& result, int64_t step);

}  // namespace strata
