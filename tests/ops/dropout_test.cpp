#include "core/ops/dropout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace dropout_test_detail {

using ops::DropoutKey;

Tensor ones(const Shape& shape, at::ScalarType dtype = at::kDouble) {
  return at::ones(shape, at::TensorOptions().dtype(dtype));
}

TEST(Dropout, EveryElementFollowsItsWord) {
  const double prob = 0.37;
  for (const int64_t F : {1, 3, 8, 4099}) {
    for (const int64_t width : {int64_t{0}, F + 5}) {
      const DropoutKey key{.seed = 9,
                           .name = "model.layers.3.mlp",
                           .step = 12,
                           .first_row = 2,
                           .first_feature = width == 0 ? 0 : 3,
                           .width = width};
      const Rng rng(key.seed, "dropout", key.name);
      const auto threshold = static_cast<uint32_t>(std::floor(prob * 4294967296.0));
      const Tensor y = ops::dropout(ones({2, 5, F}), prob, key);
      const double* values = y.const_data_ptr<double>();
      const int64_t logical = width == 0 ? F : width;
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t t = 0; t < 5; ++t) {
          for (int64_t f = 0; f < F; ++f) {
            const int64_t element = ((2 + b) * 5 + t) * logical + key.first_feature + f;
            const bool keep =
                rng.dropout_word(static_cast<uint64_t>(element), key.step) >= threshold;
            ASSERT_EQ(values[(b * 5 + t) * F + f], keep ? 1 / (1 - prob) : 0.0) << element;
          }
        }
      }
    }
  }
}

TEST(Dropout, ElementsBeyondFourBillionKeepTheirOwnWords) {
  const DropoutKey key{.seed = 9, .name = "a", .step = 1, .first_row = int64_t{1} << 35};
  const Rng rng(key.seed, "dropout", key.name);
  const Tensor y = ops::dropout(ones({1, 2, 50}, at::kFloat), 0.5, key);
  for (int64_t e = 0; e < 100; ++e) {
    const auto element = static_cast<uint64_t>((key.first_row * 2) * 50 + e);
    EXPECT_EQ(y.const_data_ptr<float>()[e] != 0, rng.dropout_word(element, 1) >= (1u << 31)) << e;
  }
}

TEST(Dropout, APartOfTheTensorGetsThatPartOfTheMask) {
  const int64_t B = 6, T = 4, F = 48;
  const DropoutKey key{.seed = 1, .name = "model.layers.0.attn", .step = 3};
  const Tensor all = ops::dropout(ones({B, T, F}), 0.25, key);
  DropoutKey rows = key;
  rows.first_row = 2;
  EXPECT_TRUE(bit_equal(ops::dropout(ones({3, T, F}), 0.25, rows), all.slice(0, 2, 5)));
  DropoutKey features = key;
  features.first_feature = 13;
  features.width = F;
  EXPECT_TRUE(bit_equal(ops::dropout(ones({B, T, 20}), 0.25, features), all.slice(2, 13, 33)));
  DropoutKey tokens = rows;
  tokens.first_token = 1;
  tokens.length = T;
  EXPECT_TRUE(
      bit_equal(ops::dropout(ones({3, 2, F}), 0.25, tokens), all.slice(0, 2, 5).slice(1, 1, 3)));
  tokens.first_feature = 13;
  tokens.width = F;
  EXPECT_TRUE(bit_equal(ops::dropout(ones({3, 2, 20}), 0.25, tokens),
                        all.slice(0, 2, 5).slice(1, 1, 3).slice(2, 13, 33)));
}

TEST(Dropout, TheShareOfKeptValuesIsTheProbability) {
  for (const double prob : {0.1, 0.5, 0.9}) {
    const Tensor y =
        ops::dropout(ones({4, 100, 500}, at::kFloat), prob, {.seed = 2, .name = "site"});
    const double kept = y.count_nonzero().item<double>() / static_cast<double>(y.numel());
    const double sigma = std::sqrt(prob * (1 - prob) / static_cast<double>(y.numel()));
    EXPECT_NEAR(kept, 1 - prob, 5 * sigma);
    EXPECT_NEAR(y.mean().item<double>(), 1.0, 5 * sigma / (1 - prob));
  }
}

TEST(Dropout, SeedNameAndStepEachChangeTheMask) {
  const Tensor x = ones({2, 8, 64});
  const DropoutKey key{.seed = 2, .name = "site", .step = 4};
  const Tensor y = ops::dropout(x, 0.5, key);
  EXPECT_TRUE(bit_equal(ops::dropout(x, 0.5, key), y));
  for (const DropoutKey& other : {DropoutKey{.seed = 3, .name = "site", .step = 4},
                                  {.seed = 2, .name = "sites", .step = 4},
                                  {.seed = 2, .name = "site", .step = 5}}) {
    const double equal =
        ((ops::dropout(x, 0.5, other) > 0) == (y > 0)).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(equal, 0.5, 0.1);
  }
}

TEST(Dropout, ProbabilityZeroReturnsTheInputItself) {
  const Tensor x = ones({1, 2, 3});
  EXPECT_TRUE(ops::dropout(x, 0, {.name = "site"}).is_same(x));
}

TEST(Dropout, RefusesProbabilitiesAndFeaturesThatCannotBe) {
  EXPECT_THROW(ops::dropout(ones({1, 2, 3}), 1.0, {.name = "site"}), InternalError);
  EXPECT_THROW(ops::dropout(ones({2, 3}), 0.5, {.name = "site"}), InternalError);
  EXPECT_THROW(ops::dropout(ones({1, 2, 3}), 0.5, {.name = "site", .first_feature = 2, .width = 4}),
               InternalError);
  EXPECT_THROW(ops::dropout(ones({1, 2, 3}), 0.5, {.name = "site", .first_token = 3, .length = 4}),
               InternalError);
}

}  // namespace dropout_test_detail

}  // namespace strata::testing
