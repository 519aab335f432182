#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "core/config/reader.h"
#include "optim/rules/adamw.h"
#include "optim/rules/sgd.h"
#include "optim/schedules.h"

namespace strata {
namespace {

Tensor four(const std::array<double, 4>& v) {
  return at::tensor(at::ArrayRef<double>(v.data(), 4), at::TensorOptions().dtype(at::kDouble));
}

// One update as the DistributedOptimizer does it.
void apply(const UpdateRule& rule, Tensor& w, const Tensor& g, std::vector<Tensor>& state,
           int64_t step, double lr) {
  if (state.empty()) {
    for (const StateSlot& slot : rule.state_slots(w.sizes().vec(), w.scalar_type())) {
      state.push_back(at::zeros(slot.shape, w.options().dtype(slot.dtype)));
    }
  }
  Piece piece{.weights = w, .grad = g, .state = state, .lr = lr, .decay = rule.weight_decay()};
  rule.update({&piece, 1}, step);
}

const std::array<double, 4> kStart{.5, -.25, .1, .3};
const std::array<std::array<double, 4>, 4> kGradients{
    {{.1, .2, .3, -.4}, {.2, -.1, .05, .3}, {-.3, .25, .15, .1}, {.12, .07, -.2, .33}}};

TEST(AdamW, GoldenTrace) {
  auto rule = make_adamw({.beta1 = .9, .beta2 = .95, .eps = 1e-8, .weight_decay = .1});
  const std::array<std::array<double, 4>, 4> expected{
      {{0.489500001000, -0.259749999500, 0.089900000333, 0.309699999750},
       {0.479430642906, -0.262173943810, 0.081881941787, 0.310286710921},
       {0.479607823359, -0.268015376524, 0.073419752786, 0.309391113827},
       {0.477877638620, -0.273890814304, 0.070447634506, 0.305497457952}}};
  Tensor w = four(kStart);
  std::vector<Tensor> state;
  for (int step = 0; step < 4; ++step) {
    apply(*rule, w, four(kGradients[step]), state, step, .01);
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(w.data_ptr<double>()[i], expected[step][i], 1e-10);
  }
}

// The fp32 kernel, all of its vector lengths, against the fp64 one.
TEST(AdamW, Fp32FollowsFp64) {
  auto rule = make_adamw({});
  for (int64_t n : {1, 15, 16, 33, 1000}) {
    Tensor w64 = at::zeros({n}, at::TensorOptions().dtype(at::kDouble)), w32 = w64.to(at::kFloat);
    std::vector<Tensor> s64, s32;
    for (int step = 0; step < 5; ++step) {
      Tensor g = at::empty_like(w64);
      for (int64_t i = 0; i < n; ++i)
        g.data_ptr<double>()[i] = std::sin(static_cast<double>(i + 7 * step));
      g = g.to(at::kFloat).to(at::kDouble);
      apply(*rule, w64, g, s64, step, .01);
      apply(*rule, w32, g.to(at::kFloat), s32, step, .01);
    }
    EXPECT_LE((w32.to(at::kDouble) - w64).abs().max().item<double>(), 1e-6);
  }
}

TEST(Sgd, MomentumByHand) {
  auto rule = make_sgd({.momentum = .5, .weight_decay = .1});
  Tensor w = four(kStart);
  std::vector<Tensor> state;
  std::array<double, 4> expected = kStart, m{};
  for (int step = 0; step < 4; ++step) {
    apply(*rule, w, four(kGradients[step]), state, step, .2);
    for (int i = 0; i < 4; ++i) {
      m[i] = .5 * m[i] + kGradients[step][i];
      expected[i] = expected[i] * (1 - .2 * .1) - .2 * m[i];
      EXPECT_NEAR(w.data_ptr<double>()[i], expected[i], 1e-15);
    }
  }
}

TEST(Sgd, NesterovLooksAhead) {
  auto rule = make_sgd({.momentum = .5, .nesterov = true});
  Tensor w = four({1, 1, 1, 1});
  std::vector<Tensor> state;
  apply(*rule, w, four({1, 1, 1, 1}), state, 0, .1);
  EXPECT_NEAR(w.data_ptr<double>()[0], 1 - .1 * 1.5, 1e-15);
}

TEST(Schedules, WarmUpAndEndPoints) {
  for (const char* name : {"constant", "linear", "cosine", "wsd", "inverse-sqrt"}) {
    ScheduleConfig s;
    s.name = name;
    s.warmup = 10;
    s.min_ratio = .1;
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 0, 100), .2) << name;
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 9, 100), 2.0) << name;
    for (int64_t step = 10; step < 100; ++step) {
      EXPECT_LE(learning_rate(s, 2.0, step, 100), learning_rate(s, 2.0, step - 1, 100) + 1e-15)
          << name << step;
    }
  }
  ScheduleConfig s;
  s.warmup = 0;
  s.name = "linear";
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 0, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 10, 10), .1);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 5, 10), .55);
  s.name = "cosine";
  EXPECT_NEAR(learning_rate(s, 1.0, 5, 10), .55, 1e-15);
  s.name = "wsd";
  s.decay_fraction = .2;
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 8, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 9, 10), .55);
  s.name = "inverse-sqrt";
  s.warmup = 4;
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 15, 100), .5);
}

TEST(Schedules, RateAndDecayCanChangeInTheMiddle) {
  ScheduleConfig s;
  s.name = "cosine";
  s.warmup = 0;
  s.min_ratio = 0;
  const double whole = learning_rate(s, 4e-3, 60, 100);
  EXPECT_EQ(weight_decay_factor(s, 99, 100), 1);
  s.half_at = s.wd_zero_at = 0.5;
  EXPECT_DOUBLE_EQ(learning_rate(s, 4e-3, 0, 100), 4e-3);
  EXPECT_DOUBLE_EQ(learning_rate(s, 4e-3, 60, 100), whole / 2);
  s.half_factor = 0.25;
  EXPECT_DOUBLE_EQ(learning_rate(s, 4e-3, 60, 100), whole / 4);
  EXPECT_GT(learning_rate(s, 4e-3, 49, 100), 3 * learning_rate(s, 4e-3, 50, 100));
  EXPECT_EQ(weight_decay_factor(s, 49, 100), 1);
  EXPECT_EQ(weight_decay_factor(s, 50, 100), 0);
}

TEST(Rules, ReadTheirKeysFromARunFile) {
  ConfigReader reader;
  reader.add_ini("[optim]\nbeta2 = 0.999\nbeta1 = 1.5\n", "run.ini");
  reader.begin_section("optim", "");
  auto rule = rule_registry().make("adamw", reader);
  reader.end_section();
  EXPECT_EQ(rule->name(), "adamw");
  EXPECT_TRUE(reader.has_problems());
  EXPECT_NE(reader.problems()[0].find("optim.beta1"), std::string::npos);
  EXPECT_THROW(rule_registry().make("adamv", reader), ConfigError);
}

}  // namespace
}  // namespace strata
