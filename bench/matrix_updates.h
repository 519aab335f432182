#pragma once
// Matrices with gradients and state, and the time of their updates by a rule.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "core/rng.h"
#include "optim/update_rule.h"

namespace strata::bench {

// Processor time of all threads of this process so far.
inline double processor_ms() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
}

struct UpdatedMatrix {
  std::string name;
  Tensor weights, grad;
  std::vector<Tensor> state;
};

inline UpdatedMatrix make_matrix(std::string name, const Shape& shape, const UpdateRule& rule) {
  const auto on = at::TensorOptions().dtype(at::kFloat);
  UpdatedMatrix m{std::move(name), at::zeros(shape, on), at::empty(shape, on), {}};
  for (const StateSlot& slot : rule.state_slots(shape, at::kFloat))
    m.state.push_back(at::zeros(slot.shape, on.dtype(slot.dtype)));
  return m;
}

struct UpdateTime {
  double ms = 0, cpu_ms = 0;  // medians
  double longest_ms = 0, longest_cpu_ms = 0;
};

// Of `rounds` updates, each with new gradients, after two that make the state: the first
// update of SOAP and GaLore finds the bases.
inline UpdateTime time_updates(const UpdateRule& rule, std::vector<UpdatedMatrix>& matrices,
                               int64_t rounds) {
  constexpr int64_t kWarmUp = 2;
  std::vector<double> ms, cpu_ms;
  for (int64_t step = 0; step < kWarmUp + rounds; ++step) {
    std::vector<Piece> pieces;
    for (UpdatedMatrix& m : matrices) {
      Rng(static_cast<uint64_t>(step), "bench", m.name)
          .fill_normal(0, m.grad.numel(), m.grad.mutable_data_ptr<float>());
      pieces.push_back({.name = m.name,
                        .weights = m.weights,
                        .grad = m.grad,
                        .state = m.state,
                        .grad_scale = .5,
                        .lr = 1e-3,
                        .decay = rule.weight_decay()});
    }
    const double cpu_begin = processor_ms();
    const auto begin = std::chrono::steady_clock::now();
    rule.update(pieces, step);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (step < kWarmUp) continue;
    ms.push_back(took.count());
    cpu_ms.push_back(processor_ms() - cpu_begin);
  }
  std::sort(ms.begin(), ms.end());
  std::sort(cpu_ms.begin(), cpu_ms.end());
  return {ms[ms.size() / 2], cpu_ms[cpu_ms.size() / 2], ms.back(), cpu_ms.back()};
}

}  // namespace strata::bench
