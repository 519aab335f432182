#pragma once
// Plays an update rule on recorded gradients. Only for optim_test, which knows STRATA_GOLDEN_DIR.
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/io/safetensors.h"
#include "optim/update_rule.h"

namespace strata::testing {

// One matrix and its state; update() is what the DistributedOptimizer does.
struct Played {
  const UpdateRule& rule;
  Tensor weights;
  std::vector<StateSlot> slots;
  std::vector<Tensor> state;
  int64_t updates = 0;

  Played(const UpdateRule& r, const Tensor& start) : rule(r), weights(start.clone()) {
    slots = rule.state_slots(start.sizes().vec(), start.scalar_type());
    for (const StateSlot& s : slots) {
      state.push_back(at::zeros(s.shape, start.options().dtype(s.dtype)));
    }
  }
  Tensor& slot(const std::string& name) {
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].name == name) return state[i];
    }
    throw std::out_of_range("no state " + name);
  }
  void update(const Tensor& grad, double lr, double grad_scale = 1, const Tensor& rounded = {}) {
    Piece piece{.name = "w",
                .weights = weights,
                .grad = grad,
                .rounded = rounded,
                .state = state,
                .grad_scale = grad_scale,
                .lr = lr,
                .decay = rule.weight_decay()};
    rule.update({&piece, 1}, updates++);
  }
};

inline Tensor matrix(int64_t rows, int64_t cols, std::vector<double> values) {
  return at::tensor(at::ArrayRef<double>(values), at::TensorOptions().dtype(at::kDouble))
      .reshape({rows, cols});
}

inline Tensor trace_start() { return matrix(2, 2, {.5, -.25, .1, .3}); }
inline std::vector<Tensor> trace_gradients() {
  return {matrix(2, 2, {.1, .2, .3, -.4}), matrix(2, 2, {.2, -.1, .05, .3}),
          matrix(2, 2, {-.3, .25, .15, .1}), matrix(2, 2, {.12, .07, -.2, .33})};
}

// expected: the weights after each of the first updates.
inline void expect_trace(const UpdateRule& rule, const std::vector<std::vector<double>>& expected) {
  Played played(rule, trace_start());
  for (size_t i = 0; i < expected.size(); ++i) {
    played.update(trace_gradients()[i], .01);
    const Tensor error = (played.weights - matrix(2, 2, expected[i])).abs().max();
    EXPECT_LE(error.item<double>(), 1e-10) << rule.name() << ", update " << i + 1;
  }
}

inline double relative(const Tensor& given, const Tensor& wanted, const Tensor& scale) {
  return ((given - wanted).norm() / scale.norm()).item<double>();
}

// All matrices of tests/golden/optim/<file>.safetensors in fp64: every update within 1e-10 of the
// displacement. after: called when update `step` (from 0) of a matrix was made.
inline void replay(const std::string& file, const UpdateRule& rule, double lr, size_t matrices,
                   const std::function<void(const io::SafetensorsReader&, const std::string& name,
                                            int64_t step, Played&)>& after = {}) {
  const io::SafetensorsReader in(STRATA_GOLDEN_DIR "/optim/" + file + ".safetensors");
  size_t seen = 0;
  for (const std::string& key : in.names()) {
    if (!key.starts_with("p.") || in.entry(key).shape.size() != 2) continue;
    const std::string name = key.substr(2);
    ++seen;
    const Tensor start = in.read(key).to(at::kDouble);
    const Tensor grads = in.read("g." + name).to(at::kDouble), wanted = in.read("w." + name);
    Played played(rule, start);
    for (int64_t step = 0; step < grads.size(0); ++step) {
      played.update(grads[step].contiguous(), lr);
      const double moved = (wanted[step] - start).norm().item<double>();
      const double error = (played.weights - wanted[step]).norm().item<double>();
      EXPECT_LE(error, 1e-10 * moved) << file << " " << name << ", update " << step + 1;
      if (after) after(in, name, step, played);
    }
  }
  EXPECT_EQ(seen, matrices) << file;
}

}  // namespace strata::testing
