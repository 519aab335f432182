#include "launch/hidden_states.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cmath>

namespace strata {
namespace {

TEST(MatrixNuclearNorm, OfAWorkedExample) {
  // Mean (1, 1); centred rows (2, 0), (-1, 1), (-1, -1); unit rows (1, 0), (-r, r), (-r, -r) with
  // r = 1/sqrt(2). Columns: sqrt(1 + 1/2 + 1/2), sqrt(1/2 + 1/2).
  const Tensor x = at::tensor({3.0, 1.0, 0.0, 2.0, 0.0, 0.0}, at::kDouble).view({1, 3, 2});
  EXPECT_NEAR(matrix_nuclear_norms(x, nullptr)[0].item<double>(), std::sqrt(2.0) + 1.0, 1e-14);
}

TEST(MatrixNuclearNorm, KeepsTheLargestColumnsOfAShortText) {
  // Two tokens of four features, +-(2, 0, 0, 0) about the mean: one column carries everything.
  Tensor x = at::ones({1, 2, 4}, at::kDouble);
  x[0][0][2] += 4.0;
  EXPECT_NEAR(matrix_nuclear_norms(x, nullptr)[0].item<double>(), std::sqrt(2.0), 1e-14);
}

TEST(MatrixNuclearNorm, DoesNotDependOnScaleOrShift) {
  const Tensor x = (at::eye(6, at::kDouble) + at::ones({6, 6}, at::kDouble).tril()).unsqueeze(0);
  const double norm = matrix_nuclear_norms(x, nullptr)[0].item<double>();
  EXPECT_NEAR(matrix_nuclear_norms(x * 3.0 + 5.0, nullptr)[0].item<double>(), norm, 1e-12);
  // The bound of the definition: D columns of T unit rows.
  EXPECT_LE(norm, std::sqrt(36.0) + 1e-12);
}

TEST(MatrixNuclearNorm, EqualTokensHaveNone) {
  EXPECT_EQ(matrix_nuclear_norms(at::ones({2, 5, 3}, at::kFloat), nullptr).sum().item<double>(), 0);
}

}  // namespace
}  // namespace strata
