// Monarch and block-diagonal matrices: worked examples, the dense matrices they stand for, and the
// nearest ones to a dense matrix.
#include "core/ops/monarch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {
namespace monarch_detail {

Tensor fill(const Shape& shape, double c, double s) {
  const Tensor k = at::arange(c10::multiply_integers(shape), at::kDouble);
  return (at::sin(k * 0.7 + c) * s).view(shape);
}
void expect_row(const Tensor& got, std::initializer_list<double> wanted, double bound = 1e-9) {
  const Tensor w = at::tensor(std::vector<double>(wanted), at::kDouble);
  ASSERT_EQ(got.numel(), w.numel());
  EXPECT_LE((got.reshape(-1) - w).abs().max().item<double>(), bound) << got;
}

TEST(Monarch, WorkedExamples) {
  {
    const Tensor w1 = fill({2, 3, 3}, 0.1, 0.5), w2 = fill({2, 5, 3}, 0.2, 0.5);
    const Tensor y = ops::monarch(fill({2, 6}, 0.3, 1), w1, w2, 10);
    expect_row(y[0], {-0.0303526214, 0.1526412120, 0.1354061568, -0.1842797810, -0.1063659202,
                      0.0334246472, -0.0280093158, 0.1505311751, 0.1346467082, -0.1854148020});
    expect_row(y[1], {0.3231713834, 0.0053082394, -0.1352183849, -0.1246261593, -0.1866424337,
                      0.1205258228, 0.3236697961, 0.0029321751, -0.1401644378, -0.1234864171});
    const Tensor dense = ops::monarch_to_dense(w1, w2, 10, 6);
    expect_row(dense[0], {-0.1744558985, -0.1521586335, -0.0582987857, 0.1995366600, 0.0556987186,
                          -0.1143352005});
    EXPECT_NEAR(dense.norm().item<double>(), 0.8805208502, 1e-9);
  }
  const Tensor y =
      ops::monarch(fill({2, 7}, 0.3, 1), fill({3, 2, 3}, 0.1, 0.5), fill({3, 2, 2}, 0.2, 0.5), 5);
  expect_row(y[0], {-0.0177177996, 0.1034402364, 0.0858852515, 0.3118333889, 0.1803230797});
  expect_row(y[1], {0.2880209646, -0.0358394711, 0.2418675556, 0.2649406680, 0.2194242868});
}

TEST(Monarch, NearestToAMatrixOfUnequalRanks) {
  const Tensor a = fill({6, 6}, 0.4, 1) + at::eye(6, at::kDouble) * 0.1;
  const auto f = ops::project_to_monarch(a, 2);
  EXPECT_NEAR(a.norm().item<double>(), 4.2462595204, 1e-9);
  EXPECT_NEAR(f.squared_error, 2.4661613431, 1e-9);
  const Tensor near = ops::monarch_to_dense(f.w1_KQP, f.w2_LSR, 6, 6);
  EXPECT_NEAR((a - near).square().sum().item<double>(), 2.4661613431, 1e-9);
  expect_row(near[0], {0.4758362329, 0.9134190872, 0.9594373563, -0.0391679356, -0.0535800770,
                       -0.0380442441});
  expect_row(near[4], {-1.0116658377, -0.7890096629, -0.2626397721, 0.7220938488, 0.9877938005,
                       0.7013776503});
}

struct Size {
  int64_t in, out, blocks;
};
const Size kSizes[] = {{16, 16, 4}, {12, 24, 3}, {24, 12, 3}, {10, 14, 4},
                       {20, 20, 4}, {7, 5, 3},   {96, 384, 4}};

// The formula of the dense matrix, element by element.
Tensor formula(const Tensor& w1, const Tensor& w2, int64_t out, int64_t in) {
  const int64_t K = w1.size(0), Q = w1.size(1), P = w1.size(2), L = w2.size(0), S = w2.size(1);
  Tensor dense = at::zeros({S * L, K * P}, w1.options());
  for (int64_t f = 0; f < K * Q; ++f) {
    for (int64_t s = 0; s < S; ++s) {
      for (int64_t i = 0; i < P; ++i) {
        dense[s * L + f % L][f / Q * P + i] += w2[f % L][s][f / L] * w1[f / Q][f % Q][i];
      }
    }
  }
  return dense.narrow(0, 0, out).narrow(1, 0, in);
}

TEST(Monarch, IsTheDenseMatrixOfItsFormula) {
  for (const auto& [in, out, blocks] : kSizes) {
    if (in > 50) continue;  // the formula is slow
    const auto s = ops::monarch_shape(in, out, blocks);
    const Tensor w1 = normal({blocks, s.middle_block, s.in_block}, cat("w1", in, out));
    const Tensor w2 = normal({blocks, s.out_block, s.middle_block}, cat("w2", in, out));
    const Tensor x = normal({3, 5, in}, "x"), dense = formula(w1, w2, out, in);
    EXPECT_LE(distance(ops::monarch(x, w1, w2, out), at::matmul(x, dense.t())), 1e-12)
        << in << " to " << out;
    EXPECT_LE(distance(ops::monarch_to_dense(w1, w2, out, in), dense), 1e-13);
  }
  // Fewer intermediates of a block than blocks: some sub-matrices are zero.
  const Tensor w1 = normal({4, 3, 3}, "w1"), w2 = normal({4, 4, 3}, "w2");
  const Tensor dense = ops::monarch_to_dense(w1, w2, 14, 10);
  EXPECT_EQ(dense.slice(0, 3, 14, 4).narrow(1, 0, 3).abs().max().item<double>(), 0);
}

TEST(Monarch, SquareFormIsPermutationsAndBlocks) {
  const int64_t m = 4, n = 16;
  const Tensor R = normal({m, m, m}, "R"), L = normal({m, m, m}, "L");
  const auto blocks = [&](const Tensor& w) { return ops::block_diagonal_to_dense(w, n, n); };
  const Tensor P = at::zeros({n, n}, at::kDouble);
  for (int64_t i = 0; i < n; ++i) P[i % m * m + i / m][i] = 1;
  const Tensor product = at::mm(at::mm(P, blocks(L)), at::mm(P.t(), blocks(R)));
  EXPECT_LE(distance(ops::monarch_to_dense(R, L, n, n), product), 1e-13);
}

TEST(Monarch, ProjectionKeepsMonarchMatricesAndTheErrorIsTheTail) {
  for (const auto& [in, out, blocks] : kSizes) {
    const std::string name = cat(in, "to", out);
    const auto s = ops::monarch_shape(in, out, blocks);
    const Tensor w1 = normal({blocks, s.middle_block, s.in_block}, "w1" + name);
    const Tensor w2 = normal({blocks, s.out_block, s.middle_block}, "w2" + name);
    const Tensor dense = ops::monarch_to_dense(w1, w2, out, in);
    const auto again = ops::project_to_monarch(dense, blocks);
    EXPECT_LE(distance(ops::monarch_to_dense(again.w1_KQP, again.w2_LSR, out, in), dense), 1e-11)
        << name;
    const Tensor any = normal({out, in}, "any" + name);
    const auto f = ops::project_to_monarch(any, blocks);
    const double error =
        (any - ops::monarch_to_dense(f.w1_KQP, f.w2_LSR, out, in)).square().sum().item<double>();
    EXPECT_NEAR(error, f.squared_error, 1e-9 * error) << name;
  }
}

// Least squares in one factor while the other is fixed cannot improve the projection.
TEST(Monarch, AlternatingLeastSquaresDoNotBeatTheProjection) {
  const int64_t in = 12, out = 8, blocks = 2;
  const Tensor a = normal({out, in}, "a");
  const double best = ops::project_to_monarch(a, blocks).squared_error;
  const auto s = ops::monarch_shape(in, out, blocks);
  for (int start = 0; start < 3; ++start) {
    Tensor w1 = normal({blocks, s.middle_block, s.in_block}, cat("start1.", start));
    Tensor w2 = normal({blocks, s.out_block, s.middle_block}, cat("start2.", start));
    const auto fit = [&](const Tensor& factor) {  // Gauss-Newton of a linear problem: one step
      const auto product = [&](const Tensor& f) {
        return ops::monarch_to_dense(factor.is_same(w1) ? f : w1, factor.is_same(w2) ? f : w2, out,
                                     in)
            .reshape(-1);
      };
      const int64_t n = factor.numel();
      const Tensor basis = at::eye(n, at::kDouble);
      Tensor columns = at::empty({out * in, n}, at::kDouble);
      for (int64_t i = 0; i < n; ++i)
        columns.select(1, i).copy_(product(basis[i].view(factor.sizes())));
      const Tensor gram = at::mm(columns.t(), columns) + at::eye(n, at::kDouble) * 1e-10;
      return at::mm(at::linalg_inv(gram), at::mm(columns.t(), a.reshape({-1, 1})))
          .view(factor.sizes());
    };
    for (int sweep = 0; sweep < 60; ++sweep) {
      w1 = fit(w1);
      w2 = fit(w2);
    }
    const double error = (a - ops::monarch_to_dense(w1, w2, out, in)).square().sum().item<double>();
    EXPECT_GE(error, best * (1 - 1e-9)) << start;
    EXPECT_LE(error, best * 1.5) << start;  // the search itself works
  }
}

// A Hadamard matrix is a Monarch matrix for every number of blocks.
TEST(Monarch, HadamardIsExact) {
  Tensor h = at::zeros({16, 16}, at::kDouble);
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t j = 0; j < 16; ++j)
      h[i][j] = __builtin_popcountll(static_cast<uint64_t>(i & j)) % 2 ? -1.0 : 1.0;
  }
  EXPECT_LE(ops::project_to_monarch(h, 4).squared_error, 1e-24);
}

TEST(BlockDiagonal, DenseFormsAndShuffle) {
  for (const auto& [in, out, blocks] : kSizes) {
    for (const bool shuffled : {false, true}) {
      const auto s = ops::monarch_shape(in, out, blocks);
      const Tensor w = normal({blocks, s.out_block, s.in_block}, cat("w", in, out));
      const Tensor x = normal({5, in}, "x");
      const Tensor in_order = shuffled ? ops::shuffle_features(x, blocks, blocks * s.in_block) : x;
      const Tensor dense = ops::block_diagonal_to_dense(w, out, in, shuffled);
      EXPECT_LE(distance(ops::block_diagonal(in_order, w, out), at::mm(x, dense.t())), 1e-13);
      const Tensor back = ops::project_to_block_diagonal(dense, blocks, shuffled);
      EXPECT_TRUE(ops::block_diagonal_to_dense(back, out, in, shuffled).equal(dense));
    }
  }
  // (group, member) becomes (member, group).
  expect_row(ops::shuffle_features(at::arange(6, at::kDouble).view({1, 6}), 2, 6),
             {0, 3, 1, 4, 2, 5}, 0);
}

}  // namespace monarch_detail
}  // namespace strata::testing
