// Large products against LibTorch's, for every way in which matrices lie in memory.
#include "core/ops/matrix_product.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace matrix_product_test_detail {

// The same values as [rows, columns]: dense, a transposed view, columns of a wider matrix, strided.
std::vector<Tensor> layouts(const Tensor& x) {
  const int64_t rows = x.size(0), columns = x.size(1);
  Tensor wide = at::zeros({rows, columns + 3}, x.options()),
         strided = at::zeros({rows, columns, 2}, x.options());
  wide.narrow(1, 2, columns).copy_(x);
  strided.select(2, 1).copy_(x);
  return {x, x.t().contiguous().t(), wide.narrow(1, 2, columns), strided.select(2, 1)};
}

TEST(MatrixProduct, EqualsLibTorch) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const double bound = dtype == at::kDouble ? 1e-14 : dtype == at::kFloat ? 3e-6 : 5e-3;
    for (const auto& [M, K, N] : {std::array<int64_t, 3>{0, 3, 2},
                                  {3, 0, 2},
                                  {1, 1, 1},
                                  {1, 300, 1},
                                  {70, 1, 33},
                                  {300, 513, 290}}) {
      const Tensor a = normal({M, K}, "a").to(dtype), b = normal({K, N}, "b").to(dtype);
      const Tensor wanted = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
      for (const Tensor& x : layouts(a)) {
        for (const Tensor& y : layouts(b)) {
          EXPECT_LE(distance(ops::matrix_product(x, y), wanted), bound) << cat(M, ' ', K, ' ', N);
        }
      }
      Tensor wide = at::ones({M, N + 2}, a.options());
      ops::matrix_product_out(wide.narrow(1, 1, N), a, b);
      EXPECT_LE(distance(wide.narrow(1, 1, N), wanted), bound);
      EXPECT_TRUE(wide.select(1, 0).eq(1).all().item<bool>());
      EXPECT_TRUE(wide.select(1, N + 1).eq(1).all().item<bool>());
      ops::matrix_product_out(wide.narrow(1, 1, N), a, b, /*accumulate=*/true);
      EXPECT_LE(distance(wide.narrow(1, 1, N), wanted * 2), bound);
    }
  }
}

TEST(MatrixProduct, OnePerMatrix) {
  const Tensor a = normal({3, 20, 30}, "a"), b = normal({3, 10, 30}, "b").transpose(1, 2);
  EXPECT_LE(distance(ops::matrix_products(a, b), at::matmul(a, b)), 1e-14);
}

TEST(MatrixProduct, RowsOfEqualValuesNeedNoCopies) {
  const Tensor a = normal({1, 40}, "a").expand({50, 40}), b = normal({40, 30}, "b");
  EXPECT_LE(distance(ops::matrix_product(a, b), at::matmul(a, b)), 1e-14);
  EXPECT_LE(distance(ops::matrix_product(b.t(), a.t()), at::matmul(b.t(), a.t())), 1e-14);
}

TEST(MatrixProduct, BitsDoNotDependOnThreads) {
  const int threads = at::get_num_threads();
  const Tensor a = normal({600, 700}, "a").to(at::kFloat),
               b = normal({700, 520}, "b").to(at::kFloat);
  at::set_num_threads(1);
  const Tensor one = ops::matrix_product(a, b);
  at::set_num_threads(3);
  EXPECT_TRUE(bit_equal(ops::matrix_product(a, b), one));
  at::set_num_threads(threads);
}

TEST(MatrixProduct, WrongShapesAreSaid) {
  EXPECT_THROW(ops::matrix_product(at::ones({2, 3}), at::ones({2, 3})), InternalError);
}

}  // namespace matrix_product_test_detail

}  // namespace strata::testing
