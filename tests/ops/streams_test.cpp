// Residual streams and doubly stochastic matrices against worked examples and their definitions.
#include "core/ops/streams.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/ops/doubly_stochastic.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {
namespace {

double largest(const Tensor& x) { return x.abs().max().item<double>(); }

TEST(Streams, ExpandAndSum) {
  const Tensor x = normal({2, 3, 5}, "x");
  const Tensor streams = ops::expand_streams(x, 4);
  EXPECT_EQ(streams.sizes(), (Shape{2, 3, 20}));
  for (int64_t s = 0; s < 4; ++s) EXPECT_TRUE(bit_equal(streams.narrow(2, 5 * s, 5), x));
  EXPECT_LE(distance(ops::sum_streams(streams, 4), x * 4.0), 1e-15);
}

// All weight on the permutation (1, 2, 0): stream 0 goes to 1, 1 to 2, 2 to 0. The inverse would
// mean that the matrix is not applied transposed.
TEST(Streams, MixingIsAppliedTransposed) {
  Tensor weights = at::zeros({1, 1, 6}, at::kDouble);
  weights[0][0][3] = 1.0;
  const Tensor mix = ops::permutation_mixture(weights, 3);
  const Tensor x = normal({1, 1, 6}, "x"), y = normal({1, 1, 2}, "y");
  const Tensor out = ops::write_streams(x, y, mix, at::zeros({1, 1, 3}, at::kDouble));
  EXPECT_TRUE(bit_equal(out.narrow(2, 2, 2), x.narrow(2, 0, 2)));
  EXPECT_TRUE(bit_equal(out.narrow(2, 4, 2), x.narrow(2, 2, 2)));
  EXPECT_TRUE(bit_equal(out.narrow(2, 0, 2), x.narrow(2, 4, 2)));
}

TEST(Streams, SumOverStreamsIsConserved) {
  const Tensor weights = (normal({2, 3, 24}, "w") * 3.0).softmax(-1);
  const Tensor mix = ops::permutation_mixture(weights, 4), write = normal({2, 3, 4}, "write");
  const Tensor x = normal({2, 3, 28}, "x"), y = normal({2, 3, 7}, "y");
  const Tensor out = ops::write_streams(x, y, mix, write);
  EXPECT_LE(distance(ops::sum_streams(out, 4), ops::sum_streams(x, 4) + write.sum(-1, true) * y),
            1e-14);
}

TEST(Streams, NormalisedProductOfAZeroRowIsFinite) {
  Tensor x = at::zeros({2, 6}, at::kDouble).requires_grad_();
  const Tensor w = normal({6, 3}, "w").requires_grad_();
  const Tensor p = ops::normalised_product(x, w);
  EXPECT_EQ(largest(p), 0);
  p.sum().backward();
  EXPECT_TRUE(std::isfinite(largest(x.grad())));
  EXPECT_EQ(largest(w.grad()), 0);
}

TEST(DoublyStochastic, PermutationsAreInLexicographicOrder) {
  EXPECT_EQ(ops::permutations(3),
            (std::vector<std::vector<int64_t>>{
                {0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}));
  EXPECT_EQ(ops::permutations(4).size(), 24u);
  EXPECT_THROW(ops::permutations(7), InternalError);
}

TEST(DoublyStochastic, MixturesAreExactToRoundingWhateverTheLogits) {
  for (const double scale : {1.0, 30.0}) {
    const Tensor weights = (normal({5, 7, 24}, "logits", at::kFloat) * scale).softmax(-1);
    const Tensor a = ops::permutation_mixture(weights, 4);
    EXPECT_LE(largest(a.sum(-1) - 1.0), 1e-6);
    EXPECT_LE(largest(a.sum(-2) - 1.0), 1e-6);
    EXPECT_GE(a.min().item<double>(), 0);
  }
}

// 1000 matrices multiplied: sums stay 1, what no truncated iteration keeps.
TEST(DoublyStochastic, ProductsStayDoublyStochastic) {
  const Tensor all =
      ops::permutation_mixture((normal({1000, 24}, "many", at::kFloat) * 4.0).softmax(-1), 4);
  Tensor product = at::eye(4, at::kFloat);
  for (int64_t k = 0; k < 1000; ++k) product = at::matmul(product, all[k]);
  EXPECT_LE(largest(product.sum(-1) - 1.0), 1e-4);
  EXPECT_LE(largest(product.sum(-2) - 1.0), 1e-4);
}

// Logits [[0, 0], [-30, 0]]: after t iterations the inexact sums are 1 -+ 1 / (2 t + 1).
TEST(DoublyStochastic, SinkhornLeavesTheKnownErrorOnTheSideNormalisedFirst) {
  const Tensor logits = at::tensor({0.0, 0.0, -30.0, 0.0}, at::kDouble).view({2, 2});
  for (const int64_t t : {5, 20}) {
    const double gap = 1.0 / (2.0 * static_cast<double>(t) + 1.0);
    const Tensor rows_last = ops::sinkhorn(logits, t, ops::SinkhornOrder::ColumnsFirst);
    EXPECT_LE(largest(rows_last.sum(-1) - 1.0), 1e-14);
    EXPECT_NEAR(rows_last.sum(-2)[0].item<double>(), 1.0 - gap, 1e-6);
    EXPECT_NEAR(rows_last.sum(-2)[1].item<double>(), 1.0 + gap, 1e-6);
    const Tensor columns_last = ops::sinkhorn(logits, t, ops::SinkhornOrder::RowsFirst);
    EXPECT_LE(largest(columns_last.sum(-2) - 1.0), 1e-14);
    EXPECT_NEAR(largest(columns_last.sum(-1) - 1.0), gap, 1e-6);
  }
}

// Two streams: the mixture equals the converged iteration of a symmetric matrix.
TEST(DoublyStochastic, TwoStreamsHaveAClosedForm) {
  for (const double delta : {-3.0, 0.0, 1.7}) {
    const Tensor weights = at::tensor({0.0, delta}, at::kDouble).softmax(-1);
    const Tensor mixture = ops::permutation_mixture(weights, 2);
    const Tensor converged =
        ops::sinkhorn(at::tensor({0.0, delta, delta, 0.0}, at::kDouble).view({2, 2}), 200,
                      ops::SinkhornOrder::RowsFirst);
    EXPECT_NEAR(mixture[0][1].item<double>(), 1.0 / (1.0 + std::exp(-delta)), 1e-15);
    EXPECT_LE(distance(converged, mixture), 1e-12);
  }
}

TEST(DoublyStochastic, SinkhornGradientEqualsFiniteDifferences) {
  const Tensor direction = normal({3, 4, 4}, "direction");
  Tensor logits = normal({3, 4, 4}, "logits").requires_grad_();
  (ops::sinkhorn(logits, 7, ops::SinkhornOrder::RowsFirst) * direction).sum().backward();
  const double h = 1e-6;
  for (const int64_t e : {0, 5, 18, 47}) {
    const auto value = [&](double step) {
      Tensor moved = logits.detach().clone();
      moved.view({-1})[e] += step;
      return (ops::sinkhorn(moved, 7, ops::SinkhornOrder::RowsFirst) * direction)
          .sum()
          .item<double>();
    };
    EXPECT_NEAR(logits.grad().view({-1})[e].item<double>(), (value(h) - value(-h)) / (2 * h), 1e-8);
  }
}

}  // namespace
}  // namespace strata::testing
