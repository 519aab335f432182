#include "core/ops/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/batch.h"
#include "core/error.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace rope_test_detail {

using ops::RopeScaling;
using ops::RopeTable;

void expect_frequencies(const RopeTable& table, const std::vector<double>& wanted,
                        double magnitude) {
  ASSERT_EQ(table.inv_freq.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(table.inv_freq[i] / wanted[i], 1.0, 1e-14) << i;
  }
  EXPECT_NEAR(table.magnitude, magnitude, 1e-14);
}

// Wanted numbers: the formulas of the HF ecosystem's reference implementation evaluated in fp64.
TEST(RopeTable, DefaultIsAGeometricSeries) {
  expect_frequencies(ops::rope_table(1e4, 16, 64, {}),
                     {1, 0.31622776601683794, 0.1, 0.031622776601683791, 0.01,
                      0.0031622776601683798, 0.001, 0.00031622776601683794},
                     1);
}

TEST(RopeTable, LinearDividesByTheFactor) {
  expect_frequencies(ops::rope_table(1e4, 16, 64, {.rope_type = "linear", .factor = 4}),
                     {0.25, 0.079056941504209485, 0.025, 0.0079056941504209478, 0.0025,
                      0.00079056941504209496, 0.00025, 7.9056941504209485e-05},
                     1);
}

TEST(RopeTable, DynamicChangesTheBaseBeyondTheLimitOnly) {
  const RopeScaling scaling{.rope_type = "dynamic", .factor = 2};
  const RopeTable plain = ops::rope_table(1e4, 16, 64, {});
  EXPECT_EQ(ops::rope_table(1e4, 16, 64, scaling).inv_freq, plain.inv_freq);
  EXPECT_EQ(ops::rope_table(1e4, 16, 64, scaling, 10).inv_freq, plain.inv_freq);
  expect_frequencies(
      ops::rope_table(1e4, 16, 64, scaling, 100),
      {1, 0.28394513884825068, 0.080624841875552369, 0.02289303192097197, 0.0065003651274578205,
       0.0018457470786803376, 0.00052409091053464156, 0.00014881306636086491},
      1);
}

TEST(RopeTable, Llama3KeepsShortWavelengthsAndBlends) {
  expect_frequencies(
      ops::rope_table(5e5, 16, 131072,
                      {.rope_type = "llama3",
                       .factor = 8,
                       .low_freq_factor = 1,
                       .high_freq_factor = 4,
                       .original_max_position_embeddings = 8192}),
      {1, 0.19392274474868576, 0.037606030930863933, 0.0072926647372171085, 0.00052484616099295468,
       3.4281021959525912e-05, 6.6478698711812362e-06, 1.2891731721515574e-06},
      1);
}

TEST(RopeTable, YarnRampsBetweenKeptAndScaled) {
  expect_frequencies(
      ops::rope_table(1e4, 16, 4096,
                      {.rope_type = "yarn", .factor = 4, .original_max_position_embeddings = 1024}),
      {1, 0.31622776601683794, 0.081250000000000017, 0.019764235376052368, 0.0043750000000000004,
       0.00079056941504209496, 0.00025, 7.9056941504209485e-05},
      1.138629436111989);
}

TEST(RopeTable, YarnMagnitudeFollowsMscales) {
  expect_frequencies(
      ops::rope_table(1e4, 32, 163840,
                      {.rope_type = "yarn",
                       .factor = 40,
                       .original_max_position_embeddings = 4096,
                       .mscale = 1.0,
                       .mscale_all_dim = 0.707}),
      {1, 0.56234132519034907, 0.31622776601683794, 0.17782794100389229, 0.1, 0.056234132519034905,
       0.027218175575020695, 0.012829015743852229, 0.0058214285714285711, 0.0024903687258429744,
       0.00095997714683682958, 0.00029214590307782314, 2.5e-05, 1.4058533129758728e-05,
       7.9056941504209471e-06, 4.4456985250973073e-06},
      1.0857263992561355);
}

TEST(RopeTable, YarnAttentionFactorWinsAndBetasMoveTheRamp) {
  expect_frequencies(ops::rope_table(1e4, 8, 4096,
                                     {.rope_type = "yarn",
                                      .factor = 4,
                                      .original_max_position_embeddings = 1024,
                                      .beta_fast = 16,
                                      .beta_slow = 2,
                                      .attention_factor = 1.5}),
                     {1, 0.1, 0.0025, 0.00025}, 1.5);
}

TEST(RopeTable, RefusesUnknownTypesAndOddWidths) {
  try {
    ops::rope_table(1e4, 16, 64, {.rope_type = "yarnn"});
    FAIL() << "an unknown type was accepted";
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("Did you mean \"yarn\"?"), std::string::npos) << e.what();
  }
  EXPECT_THROW(ops::rope_table(1e4, 15, 64, {}), ConfigError);
  EXPECT_THROW(ops::rope_table(1e4, 0, 64, {}), ConfigError);
}

TEST(Rope, EqualsTheDefinitionWithScalars) {
  const int64_t B = 2, T = 70, H = 3, K = 22, R = 18;
  const RopeTable table = ops::rope_table(
      1e4, R, 4096, {.rope_type = "yarn", .factor = 4, .original_max_position_embeddings = 1024});
  const Tensor positions = default_positions(B, T) + at::tensor({0, 3000}, at::kLong).unsqueeze(1);
  const Tensor x = normal({B, T, H, K}, "x");
  const Tensor y = ops::rope(x, positions, table);
  const double* in = x.const_data_ptr<double>();
  const double* out = y.const_data_ptr<double>();
  for (int64_t n = 0; n < B * T; ++n) {
    for (int64_t h = 0; h < H; ++h) {
      const double* a = in + (n * H + h) * K;
      const double* b = out + (n * H + h) * K;
      for (int64_t i = 0; i < K; ++i) {
        double wanted = a[i];
        if (i < R) {
          const int64_t pair = i % (R / 2);
          const double angle = static_cast<double>(positions.const_data_ptr<int64_t>()[n]) *
                               table.inv_freq[static_cast<size_t>(pair)];
          const double turned = i < R / 2
                                    ? a[pair] * std::cos(angle) - a[pair + R / 2] * std::sin(angle)
                                    : a[pair + R / 2] * std::cos(angle) + a[pair] * std::sin(angle);
          wanted = turned * table.magnitude;
        }
        ASSERT_NEAR(b[i], wanted, 1e-12) << n << ' ' << h << ' ' << i;
      }
    }
  }
}

TEST(Rope, ScoresDependOnDistanceOnly) {
  const RopeTable table = ops::rope_table(1e4, 32, 512, {});
  const Tensor q = normal({1, 1, 1, 32}, "q"), k = normal({1, 1, 1, 32}, "k");
  const auto score = [&](int64_t tq, int64_t tk) {
    return (ops::rope(q, at::tensor({tq}, at::kLong).view({1, 1}), table) *
            ops::rope(k, at::tensor({tk}, at::kLong).view({1, 1}), table))
        .sum()
        .item<double>();
  };
  EXPECT_NEAR(score(7, 3), score(507, 503), 1e-12);
  EXPECT_GT(std::abs(score(7, 3) - score(7, 4)), 1e-6);
}

TEST(Rope, RefusesTablesWiderThanTheHead) {
  const Tensor x = normal({1, 2, 1, 8}, "x");
  EXPECT_THROW(ops::rope(x, default_positions(1, 2), ops::rope_table(1e4, 10, 64, {})),
               InternalError);
  EXPECT_THROW(ops::rope(x, default_positions(1, 3), ops::rope_table(1e4, 8, 64, {})),
               InternalError);
}

}  // namespace rope_test_detail

}  // namespace strata::testing
