#include "launch/throughput.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/text.h"
#include "launch/device.h"

namespace strata {
namespace throughput_detail {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// 12345 -> "12.3k"
std::string short_count(double value) {
  const char* units[] = {"", "k", "M", "G"};
  int unit = 0;
  for (; value >= 999.5 && unit < 3; ++unit) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof text,
                value < 9.995 && unit > 0 ? "%.2f%s"
                : value < 99.95           ? "%.1f%s"
                                          : "%.0f%s",
                value, units[unit]);
  return text;
}

}  // namespace throughput_detail

double flops_per_step(const ModelSpec& model, int64_t rows, int64_t time) {
  double forward = 0;
  for (int layer = 0; layer < model.layer_count(); ++layer)
    forward += model.flops_per_token(layer, time);
  return 3 * forward * static_cast<double>(rows) * static_cast<double>(time);
}

double measure_peak(Communicator& job, const at::Device& device, at::ScalarType dtype) {
  using throughput_detail::seconds;
  constexpr double kEnough = 0.15;
  const int64_t n = device.is_cuda() ? 4096 : 768;
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  const Tensor a = at::full({n, n}, 0.5, options), b = at::full({n, n}, 0.25, options);
  Tensor c = at::empty({n, n}, options);
  at::mm_out(c, a, b);  // first call: thread pools, libraries
  wait_for_device(device);
  job.barrier();
  double best = 0;
  const double start = seconds();
  do {
    const double begin = seconds();
    at::mm_out(c, a, b);
    wait_for_device(device);
    const double flops =
        2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    best = std::max(best, flops / (seconds() - begin));
  } while (seconds() - start < kEnough);
  Tensor sum = at::full({1}, best, at::TensorOptions().dtype(at::kDouble));
  job.all_reduce(sum, ReduceOp::Sum).wait_host();
  return sum.item<double>();
}

int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

void StepTimer::add(double seconds) {
  constexpr size_t kKept = 50;
  if (times_.size() < kKept) {
    times_.push_back(seconds);
  } else {
    times_[next_++ % kKept] = seconds;
  }
}

double StepTimer::median_s() const {
  if (times_.empty()) return 0;
  std::vector<double> sorted = times_;
  const auto middle = sorted.begin() + static_cast<ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

std::string step_line(const StepRecord& r, int64_t steps, double median_s) {
  using throughput_detail::short_count;
  char numbers[160];
  std::snprintf(numbers, sizeof numbers, "loss %.4f  lr %.2e  norm %.3g  ", r.loss, r.lr,
                r.grad_norm);
  char speed[96];
  std::snprintf(speed, sizeof speed, "  mfu %.0f%%  mem ", 100 * r.flops_utilisation);
  std::string step = cat(r.step), last = cat(steps);
  step.insert(0, last.size() - std::min(last.size(), step.size()), ' ');
  return cat("step ", step, '/', last, "  ", numbers, r.skipped ? "SKIPPED  " : "",
             short_count(r.tokens_per_s), " tok/s  ", duration_text(r.seconds), speed,
             bytes_text(static_cast<double>(r.memory_bytes)), "  eta ",
             duration_text(median_s * static_cast<double>(steps - r.step)));
}

std::string eval_line(const EvalResult& e, int64_t step) {
  char text[160];
  std::snprintf(text, sizeof text, "loss %.4f  perplexity %.3f  accuracy %.2f%%", e.loss,
                e.perplexity(), 100 * e.accuracy);
  std::string out = cat("eval at step ", step, "  ", text);
  if (e.bits_per_byte) {
    std::snprintf(text, sizeof text, "  %.4f bits per byte", *e.bits_per_byte);
    out += text;
  }
  if (e.streams) {
    std::snprintf(text, sizeof text, "  streams: sums within %.1e of 1, gain %.3f / %.3f",
                  e.streams->sum_gap, e.streams->forward_gain, e.streams->backward_gain);
    out += text;
  }
  return cat(out, "  (", e.rows, " rows, ", duration_text(e.seconds), ")");
}

}  // namespace strata
