#pragma once
// Learning rate as a pure function of the step (0-based: step 0 is the first update).
//
//   warm-up    peak * (step + 1) / warmup for step < warmup
//   constant   peak
//   linear     from peak at the end of the warm-up to min_ratio * peak at `steps`
//   cosine     the same end points along half a cosine
//   wsd        peak, then linear to min_ratio * peak over the last decay_fraction of `steps`
//   inverse-sqrt  peak * sqrt(max(warmup, 1) / (step + 1))
//
// half_at: from that part of the steps on, whatever the shape, the rate is multiplied by
// half_factor. wd_zero_at: from that part of the steps on there is no weight decay. Both are 1
// (never) unless set; ternary models are trained with 0.5 (models/matmul_free/README.md).
#include <cstdint>
#include <string>

namespace strata {

class ConfigVisitor;

struct ScheduleConfig {
  std::string name = "cosine";
  int64_t warmup = 100;
  double min_ratio = 0.1;
  double decay_fraction = 0.2;
  double half_at = 1, half_factor = 0.5;
  double wd_zero_at = 1;
  void visit(ConfigVisitor& v);  // section [sched]
};
double learning_rate(const ScheduleConfig& schedule, double peak, int64_t step, int64_t steps);
// What the update rule's weight decay is multiplied by: 1, and 0 from wd_zero_at on.
double weight_decay_factor(const ScheduleConfig& schedule, int64_t step, int64_t steps);

}  // namespace strata
