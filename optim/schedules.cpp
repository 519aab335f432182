#include "optim/schedules.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/config/visitor.h"

namespace strata {

void ScheduleConfig::visit(ConfigVisitor& v) {
  v.field("name", name, one_of({"constant", "linear", "cosine", "wsd", "inverse-sqrt"}),
          "shape of the learning rate");
  v.field("warmup", warmup, at_least(0), "steps of linear warm-up");
  v.field("min_ratio", min_ratio, number_between(0, 1),
          "learning rate at the end, as a part of the peak");
  v.field("decay_fraction", decay_fraction, number_between(0, 1),
          "wsd: part of the run that decays");
  v.field("half_at", half_at, number_between(0, 1),
          "part of the steps after which the rate is multiplied by half_factor; 1: never");
  v.field("half_factor", half_factor, number_between(0, 1), "see half_at");
  v.field("wd_zero_at", wd_zero_at, number_between(0, 1),
          "part of the steps after which there is no weight decay; 1: never");
}

namespace schedules_detail {

bool reached(double part, int64_t step, int64_t steps) {
  return part < 1 && static_cast<double>(step) >= part * static_cast<double>(steps);
}

double shape(const ScheduleConfig& s, double peak, int64_t step, int64_t steps) {
  if (step < s.warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(s.warmup);
  const double low = s.min_ratio * peak;
  auto fraction = [&](int64_t from) {
    const double length = static_cast<double>(std::max<int64_t>(1, steps - from));
    return std::clamp(static_cast<double>(step - from) / length, 0.0, 1.0);
  };
  if (s.name == "linear") return peak + (low - peak) * fraction(s.warmup);
  if (s.name == "cosine")
    return low + (peak - low) * 0.5 * (1 + std::cos(std::numbers::pi * fraction(s.warmup)));
  if (s.name == "wsd") {
    const auto decay =
        static_cast<int64_t>(std::llround(s.decay_fraction * static_cast<double>(steps)));
    const int64_t from = std::max(s.warmup, steps - decay);
    return step < from ? peak : peak + (low - peak) * fraction(from);
  }
  if (s.name == "inverse-sqrt") {
    return peak * std::sqrt(static_cast<double>(std::max<int64_t>(s.warmup, 1)) /
                            static_cast<double>(step + 1));
  }
  return peak;
}

}  // namespace schedules_detail

double learning_rate(const ScheduleConfig& s, double peak, int64_t step, int64_t steps) {
  const double rate = schedules_detail::shape(s, peak, step, steps);
  return schedules_detail::reached(s.half_at, step, steps) ? rate * s.half_factor : rate;
}

double weight_decay_factor(const ScheduleConfig& s, int64_t step, int64_t steps) {
  return schedules_detail::reached(s.wd_zero_at, step, steps) ? 0 : 1;
}

}  // namespace strata
