#include "launch/sampler.h"

#include <gtest/gtest.h>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>

#include <cmath>
#include <set>

namespace strata {
namespace {

Tensor logits(std::vector<double> values) {
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble).clone();
}

TEST(SamplerTest, TemperatureZeroTakesTheLikeliest) {
  EXPECT_EQ(choose_token(logits({0, 3, 1, 3}), {.temperature = 0}, 0, 0), 1)
      << "the lowest id on ties";
}

TEST(SamplerTest, SameArgumentsSameToken) {
  const Tensor l = at::full({50}, 0.0, at::kFloat);
  std::set<int64_t> seen;
  for (int64_t position = 0; position < 40; ++position) {
    const int64_t id = choose_token(l, {.seed = 3}, 0, position);
    EXPECT_EQ(id, choose_token(l.to(at::kDouble), {.seed = 3}, 0, position));
    seen.insert(id);
  }
  EXPECT_GT(seen.size(), 15u) << "positions draw different noise";
  int different = 0;
  for (int64_t position = 0; position < 40; ++position) {
    different +=
        choose_token(l, {.seed = 3}, 0, position) != choose_token(l, {.seed = 3}, 1, position);
    different +=
        choose_token(l, {.seed = 3}, 0, position) != choose_token(l, {.seed = 4}, 0, position);
  }
  EXPECT_GT(different, 60);
}

TEST(SamplerTest, FrequenciesFollowTheSoftmax) {
  const std::vector<double> values = {1.0, 0.0, -1.0, 0.5};
  const double temperature = 0.7;
  double sum = 0;
  for (double v : values) sum += std::exp(v / temperature);
  constexpr int kDraws = 20000;
  std::vector<int> counts(values.size());
  const Tensor l = logits(values);
  for (int n = 0; n < kDraws; ++n)
    ++counts[static_cast<size_t>(choose_token(l, {.temperature = temperature, .seed = 11}, 5, n))];
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = std::exp(values[i] / temperature) / sum;
    const double sigma = std::sqrt(expected * (1 - expected) / kDraws);
    EXPECT_NEAR(static_cast<double>(counts[i]) / kDraws, expected, 5 * sigma) << i;
  }
}

TEST(SamplerTest, TopKAndTopPLeaveOutTheRest) {
  const Tensor l = logits({std::log(0.5), std::log(0.3), std::log(0.15), std::log(0.05)});
  std::set<int64_t> two, nucleus, one;
  for (int n = 0; n < 400; ++n) {
    two.insert(choose_token(l, {.top_k = 2, .seed = 2}, 0, n));
    nucleus.insert(choose_token(l, {.top_p = 0.9, .seed = 2}, 0, n));
    one.insert(choose_token(l, {.top_p = 0.4, .seed = 2}, 0, n));
  }
  EXPECT_EQ(two, (std::set<int64_t>{0, 1}));
  EXPECT_EQ(nucleus, (std::set<int64_t>{0, 1, 2}))
      << "0.5 + 0.3 is below 0.9, with 0.15 it is reached";
  EXPECT_EQ(one, (std::set<int64_t>{0}));
}

}  // namespace
}  // namespace strata
