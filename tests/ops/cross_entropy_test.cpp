#include "core/ops/cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/batch.h"
#include "core/rng.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace cross_entropy_test_detail {

using ops::CrossEntropyOptions;

struct Outcome {
  Tensor losses, gradient;
};

// What a group of ranks computes, each holding the columns between two neighbouring cuts.
Outcome over_columns(const Tensor& logits_NV, const Tensor& targets_N,
                     const std::vector<int64_t>& cuts, const CrossEntropyOptions& options) {
  const int64_t V = logits_NV.size(1);
  std::vector<Tensor> parts;
  Tensor most;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    parts.push_back(logits_NV.slice(1, cuts[i], cuts[i + 1]).clone());
    const Tensor part = ops::row_max(parts.back());
    most = most.defined() ? at::maximum(most, part) : part;
  }
  Tensor sums;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor part =
        ops::exp_sums(parts[i], most, targets_N, cuts[i], options.label_smoothing != 0);
    sums = sums.defined() ? sums + part : part;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    ops::cross_entropy_backward_(parts[i], sums, most, targets_N, cuts[i], V, options);
  }
  return {ops::token_losses(sums, most, targets_N, V, options), at::cat(parts, 1)};
}

// The formula with scalars of the standard library.
Outcome by_definition(const Tensor& logits_NV, const Tensor& targets_N,
                      const CrossEntropyOptions& options) {
  const Tensor logits = logits_NV.to(at::kDouble).contiguous();
  const int64_t N = logits.size(0), V = logits.size(1);
  Outcome out{at::zeros({N}, logits.options()), at::zeros({N, V}, logits.options())};
  const double alpha = options.label_smoothing, zeta = options.z_loss;
  for (int64_t n = 0; n < N; ++n) {
    const double* l = logits.const_data_ptr<double>() + n * V;
    const int64_t target = targets_N[n].item<int64_t>();
    if (target == kIgnoreLabel) {
      continue;
    }
    double most = l[0], sum = 0, mean = 0;
    for (int64_t j = 0; j < V; ++j) {
      most = std::max(most, l[j]);
      mean += l[j] / static_cast<double>(V);
    }
    for (int64_t j = 0; j < V; ++j) {
      sum += std::exp(l[j] - most);
    }
    const double lse = most + std::log(sum);
    out.losses.mutable_data_ptr<double>()[n] =
        (1 - alpha) * (lse - l[target]) + alpha * (lse - mean) + zeta * lse * lse;
    for (int64_t j = 0; j < V; ++j) {
      out.gradient.mutable_data_ptr<double>()[n * V + j] =
          std::exp(l[j] - lse) * (1 + 2 * zeta * lse) - (j == target ? 1 - alpha : 0.0) -
          alpha / static_cast<double>(V);
    }
  }
  return out;
}

constexpr int64_t kTokens = 37;

Tensor some_targets(int64_t N, int64_t V) {
  const Rng rng(3, "data", "targets");
  Tensor targets = at::empty({N}, at::TensorOptions().dtype(at::kLong));
  for (int64_t n = 0; n < N; ++n) {
    targets.mutable_data_ptr<int64_t>()[n] =
        n % 5 == 2 ? kIgnoreLabel : rng.word(static_cast<uint64_t>(n)) % V;
  }
  return targets;
}

const std::vector<CrossEntropyOptions>& all_options() {
  static const std::vector<CrossEntropyOptions> options = {
      {}, {.label_smoothing = 0.1}, {.z_loss = 1e-2}, {.label_smoothing = 0.2, .z_loss = 1e-3}};
  return options;
}

TEST(CrossEntropy, EqualsTheDefinitionForEveryCutOfTheVocabulary) {
  for (const int64_t V : {1, 61, 1000}) {
    const Tensor logits = normal({kTokens, V}, "logits") * 3.0;
    const Tensor targets = some_targets(kTokens, V);
    for (const CrossEntropyOptions& options : all_options()) {
      const Outcome wanted = by_definition(logits, targets, options);
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{0, V}, {0, V / 2, V}, {0, V / 3, V / 3, V, V}, {0, V, V, V}}) {
        const Outcome got = over_columns(logits, targets, cuts, options);
        EXPECT_LE(distance(got.losses, wanted.losses), 1e-13) << V;
        EXPECT_LE((got.gradient - wanted.gradient).abs().max().item<double>(), 1e-14) << V;
      }
    }
  }
}

TEST(CrossEntropy, GradientEqualsFiniteDifferences) {
  const int64_t V = 23;
  const Tensor logits = normal({kTokens, V}, "logits");
  const Tensor targets = some_targets(kTokens, V);
  const Tensor step = normal({kTokens, V}, "step");
  for (const CrossEntropyOptions& options : all_options()) {
    const auto loss_at = [&](double h) {
      return over_columns(logits + step * h, targets, {0, 11, V}, options)
          .losses.sum()
          .item<double>();
    };
    const Outcome outcome = over_columns(logits, targets, {0, 11, V}, options);
    const double slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6;
    EXPECT_NEAR(slope, (outcome.gradient * step).sum().item<double>(), 1e-7);
  }
}

TEST(CrossEntropy, Fp32AndBf16AreNearFp64) {
  const int64_t V = 333;
  const Tensor exact = (normal({kTokens, V}, "logits") * 4.0).to(at::kBFloat16);
  const Tensor targets = some_targets(kTokens, V);
  for (const CrossEntropyOptions& options : all_options()) {
    const Outcome wanted = by_definition(exact, targets, options);
    const Outcome fp32 = over_columns(exact.to(at::kFloat), targets, {0, 100, V}, options);
    EXPECT_EQ(fp32.losses.scalar_type(), at::kFloat);
    EXPECT_LE(distance(fp32.losses, wanted.losses), 1e-6);
    EXPECT_LE(distance(fp32.gradient, wanted.gradient), 1e-6);
    const Outcome bf16 = over_columns(exact, targets, {0, 100, V}, options);
    EXPECT_EQ(bf16.losses.scalar_type(), at::kFloat);
    EXPECT_EQ(bf16.gradient.scalar_type(), at::kBFloat16);
    EXPECT_LE(distance(bf16.losses, wanted.losses),
              1e-6);  // logits are exact, sums fp32: only the gradient is rounded
    EXPECT_LE(distance(bf16.gradient, wanted.gradient), 4e-3);
  }
}

TEST(CrossEntropy, LargeLogitsStayFinite) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Tensor logits = (normal({6, 40}, "logits") * 1e4).to(dtype);
    logits[0].fill_(-1e30);
    logits[1].fill_(1e30);
    logits[2].fill_(-std::numeric_limits<double>::infinity());
    logits[2][5].fill_(0.0);
    const Tensor targets = at::full({6}, 5, at::kLong);
    const Outcome outcome = over_columns(logits, targets, {0, 17, 40}, {});
    EXPECT_TRUE(outcome.losses.isfinite().all().item<bool>());
    EXPECT_TRUE(outcome.gradient.isfinite().all().item<bool>());
    EXPECT_NEAR(outcome.losses[0].item<double>(), std::log(40.0), 1e-5);
    EXPECT_EQ(outcome.losses[2].item<double>(), 0.0);
  }
}

TEST(CrossEntropy, IgnoredTokensHaveNoLossAndNoGradientWhateverTheirLogits) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Tensor logits = normal({4, 19}, "logits").to(dtype);
    logits[3].fill_(std::numeric_limits<double>::quiet_NaN());
    const Outcome outcome = over_columns(logits, at::full({4}, kIgnoreLabel, at::kLong), {0, 19},
                                         {.label_smoothing = 0.1, .z_loss = 0.1});
    EXPECT_EQ(outcome.losses.count_nonzero().item<int64_t>(), 0);
    EXPECT_EQ(outcome.gradient.count_nonzero().item<int64_t>(), 0);
  }
}

TEST(CrossEntropy, NotANumberInTheLogitsReachesTheLoss) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Tensor logits = normal({2, 50}, "logits").to(dtype);
    logits[1][20].fill_(std::numeric_limits<double>::quiet_NaN());
    const Outcome outcome = over_columns(logits, at::full({2}, 3, at::kLong), {0, 50}, {});
    EXPECT_TRUE(std::isfinite(outcome.losses[0].item<double>()));
    EXPECT_TRUE(std::isnan(outcome.losses[1].item<double>()));
  }
}

TEST(CrossEntropy, ARankWithoutColumnsAddsNothing) {
  const Tensor logits = at::empty({5, 0}, at::TensorOptions().dtype(at::kFloat));
  const Tensor targets = some_targets(5, 10);
  const Tensor most = ops::row_max(logits);
  EXPECT_TRUE((most == -std::numeric_limits<double>::infinity()).all().item<bool>());
  const Tensor sums = ops::exp_sums(logits, at::zeros({5}), targets, 10, true);
  EXPECT_EQ(sums.sizes(), at::IntArrayRef({3, 5}));
  EXPECT_EQ(sums.count_nonzero().item<int64_t>(), 0);
  ops::cross_entropy_backward_(logits, sums + 1.0, at::zeros({5}), targets, 10, 10, {});
}

TEST(CrossEntropy, NoTokensGiveNoLosses) {
  const Tensor logits = at::empty({0, 12}, at::TensorOptions().dtype(at::kBFloat16));
  const Outcome outcome =
      over_columns(logits, at::empty({0}, at::kLong), {0, 12}, {.label_smoothing = 0.1});
  EXPECT_EQ(outcome.losses.numel(), 0);
  EXPECT_EQ(outcome.gradient.sizes(), at::IntArrayRef({0, 12}));
}

TEST(CrossEntropy, BitsDependNeitherOnThreadsNorOnOtherTokens) {
  const int64_t V = 1111;
  const int threads = at::get_num_threads();
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Tensor logits = (normal({kTokens, V}, "logits") * 4.0).to(dtype);
    const Tensor targets = some_targets(kTokens, V);
    const CrossEntropyOptions options{.label_smoothing = 0.1, .z_loss = 1e-3};
    at::set_num_threads(1);
    const Outcome one = over_columns(logits, targets, {0, 500, V}, options);
    at::set_num_threads(3);
    const Outcome three = over_columns(logits, targets, {0, 500, V}, options);
    at::set_num_threads(threads);
    EXPECT_TRUE(bit_equal(three.losses, one.losses));
    EXPECT_TRUE(bit_equal(three.gradient, one.gradient));
    const Outcome few =
        over_columns(logits.slice(0, 7, 12), targets.slice(0, 7, 12), {0, 500, V}, options);
    EXPECT_TRUE(bit_equal(few.losses, one.losses.slice(0, 7, 12)));
    EXPECT_TRUE(bit_equal(few.gradient, one.gradient.slice(0, 7, 12)));
  }
}

TEST(CrossEntropy, GradientIsWrittenThroughAnyStrides) {
  const Tensor logits = normal({9, 30}, "logits").to(at::kFloat);
  const Tensor targets = some_targets(9, 30);
  const Tensor most = ops::row_max(logits);
  const Tensor sums = ops::exp_sums(logits, most, targets, 0, false);
  const Tensor plain = logits.clone();
  ops::cross_entropy_backward_(plain, sums, most, targets, 0, 30, {});
  const Tensor padded = at::full({9, 33}, 7.0, logits.options());
  const Tensor inside = padded.narrow(1, 2, 30).copy_(logits);
  ops::cross_entropy_backward_(inside, sums, most, targets, 0, 30, {});
  EXPECT_TRUE(bit_equal(inside.contiguous(), plain));
  EXPECT_TRUE((padded.narrow(1, 0, 2) == 7.0).all().item<bool>());
  EXPECT_TRUE((padded.narrow(1, 32, 1) == 7.0).all().item<bool>());
  const Tensor turned = logits.t().contiguous().t();
  EXPECT_TRUE(bit_equal(ops::row_max(turned), most));
  EXPECT_TRUE(bit_equal(ops::exp_sums(turned, most, targets, 0, false), sums));
  ops::cross_entropy_backward_(turned, sums, most, targets, 0, 30, {});
  EXPECT_TRUE(bit_equal(turned.contiguous(), plain));
}

}  // namespace cross_entropy_test_detail

}  // namespace strata::testing
