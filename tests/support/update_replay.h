#pragma once
// Plays an update rule on recorded gradients. Only for optim_test, which knows STRATA_GOLDEN_DIR.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/io/safetensors.h"
#include "core/rng.h"
#include "optim/update_rule.h"

namespace strata::testing {

// at::randn gives the same numbers whichever tests run before.
class Seeded : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(1); }
};

// One matrix and its state; update() is what the DistributedOptimizer does.
struct Played {
  const UpdateRule& rule;
  Tensor weights;
  std::vector<StateSlot> slots;
  std::vector<Tensor> state;
  int64_t updates = 0;
  int64_t index = 0;

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
  Piece piece(const Tensor& grad, double lr, double grad_scale = 1, const Tensor& rounded = {}) {
    return {.name = "w",
            .index = index,
            .weights = weights,
            .grad = grad,
            .rounded = rounded,
            .state = state,
            .grad_scale = grad_scale,
            .lr = lr,
            .decay = rule.weight_decay()};
  }
  void update(const Tensor& grad, double lr, double grad_scale = 1, const Tensor& rounded = {}) {
    Piece one = piece(grad, lr, grad_scale, rounded);
    rule.update({&one, 1}, updates++);
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

// Largest difference from `expected`, the weights after each of the first updates. Gradients are
// given four times too large and scaled back, as sums over four parts are.
inline double trace_error(const UpdateRule& rule, const std::vector<std::vector<double>>& expected,
                          double lr = .01) {
  Played played(rule, trace_start());
  double most = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    played.update(trace_gradients()[i] * 4, lr, .25);
    const Tensor error = (played.weights - matrix(2, 2, expected[i])).abs().max();
    most = std::max(most, error.item<double>());
  }
  return most;
}
inline void expect_trace(const UpdateRule& rule, const std::vector<std::vector<double>>& expected,
                         double lr = .01) {
  EXPECT_LE(trace_error(rule, expected, lr), 1e-10) << rule.name();
}

// Standard normal numbers, the same on every machine.
inline Tensor normal(const Shape& shape, uint64_t seed, at::ScalarType dtype = at::kDouble) {
  Tensor x = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
  Rng(seed, "test", "optim").fill_normal(0, x.numel(), x.mutable_data_ptr<float>());
  return x.to(dtype);
}

inline double relative(const Tensor& given, const Tensor& wanted, const Tensor& scale) {
  return ((given - wanted).norm() / scale.norm()).item<double>();
}

using AfterUpdate = std::function<void(const io::SafetensorsReader&, const std::string& name,
                                       int64_t step, Played&)>;

inline io::SafetensorsReader recorded(const std::string& file) {
  return io::SafetensorsReader(std::string(STRATA_GOLDEN_DIR) + "/optim/" + file + ".safetensors");
}

// Parameter `name` of a recorded run, in fp64: the largest error of an update, relative to the way
// from the start. after: called when update `step` (from 0) was made.
inline double replay_error(const io::SafetensorsReader& in, const std::string& name,
                           const UpdateRule& rule, double lr, const AfterUpdate& after = {}) {
  const Tensor start = in.read("p." + name).to(at::kDouble);
  const Tensor grads = in.read("g." + name).to(at::kDouble), wanted = in.read("w." + name);
  Played played(rule, start);
  double most = 0;
  for (int64_t step = 0; step < grads.size(0); ++step) {
    played.update(grads[step].contiguous(), lr);
    const double moved = (wanted[step] - start).norm().item<double>();
    const double error = (played.weights - wanted[step]).norm().item<double>();
    most = std::max(most, moved > 0 ? error / moved : error);
    if (after) after(in, name, step, played);
  }
  return most;
}

// All matrices of tests/golden/optim/<file>.safetensors: every update within 1e-10 of the way.
inline void replay(const std::string& file, const UpdateRule& rule, double lr, size_t matrices,
                   const AfterUpdate& after = {}) {
  const io::SafetensorsReader in = recorded(file);
  size_t seen = 0;
  for (const std::string& key : in.names()) {
    if (!key.starts_with("p.") || in.entry(key).shape.size() != 2) continue;
    const std::string name = key.substr(2);
    ++seen;
    EXPECT_LE(replay_error(in, name, rule, lr, after), 1e-10) << file << " " << name;
  }
  EXPECT_EQ(seen, matrices) << file;
}

}  // namespace strata::testing
