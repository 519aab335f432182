// Small products against the definition, at every form and at sizes around those of the tiles.
#include "core/ops/block_gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"
#include "core/text.h"

namespace strata::testing {

namespace block_gemm_test_detail {

template <class T>
std::vector<T> values(int64_t count, const std::string& name) {
  std::vector<float> drawn(static_cast<size_t>(count));
  Rng(3, "init", name).fill_normal(0, count, drawn.data());
  return {drawn.begin(), drawn.end()};
}

// Largest error of an element, measured by the sum of the sizes of its terms; the gaps between rows
// must be left alone.
template <class T>
double worst_error(bool trans_a, bool trans_b, bool accumulate, int64_t M, int64_t N, int64_t K) {
  const int64_t lda = (trans_a ? M : K) + 3, ldb = (trans_b ? K : N) + 2, ldc = N + 1;
  const auto a = values<T>((trans_a ? K : M) * lda + 1, "a");
  const auto b = values<T>((trans_b ? N : K) * ldb + 1, "b");
  auto c = values<T>(M * ldc, "c");
  const auto before = c;
  ops::block::gemm<T>(trans_a, trans_b, M, N, K, a.data(), lda, b.data(), ldb, c.data(), ldc,
                      accumulate);
  double worst = 0;
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < ldc; ++n) {
      const auto at = static_cast<size_t>(m * ldc + n);
      if (n == N) {
        EXPECT_EQ(c[at], before[at]);
        continue;
      }
      double sum = accumulate ? before[at] : 0, size = std::abs(sum) + 1e-30;
      for (int64_t k = 0; k < K; ++k) {
        const double term =
            static_cast<double>(a[static_cast<size_t>(trans_a ? k * lda + m : m * lda + k)]) *
            static_cast<double>(b[static_cast<size_t>(trans_b ? n * ldb + k : k * ldb + n)]);
        sum += term;
        size += std::abs(term);
      }
      worst = std::max(worst, std::abs(static_cast<double>(c[at]) - sum) / size);
    }
  }
  return worst;
}

TEST(BlockGemm, EqualsTheDefinition) {
  for (int form = 0; form < 8; ++form) {
    const bool ta = form & 1, tb = form & 2, add = form & 4;
    for (const int64_t M : {0, 1, 3, 8, 17, 64}) {
      for (const int64_t N : {0, 1, 7, 16, 31, 33, 100}) {
        for (const int64_t K : {0, 1, 5, 64, 300}) {
          EXPECT_LE(worst_error<double>(ta, tb, add, M, N, K), 1e-14) << cat(M, ' ', N, ' ', K);
          EXPECT_LE(worst_error<float>(ta, tb, add, M, N, K), 5e-6) << cat(M, ' ', N, ' ', K);
        }
      }
    }
  }
}

// The bits of a row are the same whatever rows stand beside it.
TEST(BlockGemm, RowsDoNotDependOnOneAnother) {
  constexpr int64_t M = 29, N = 45, K = 70;
  const auto a = values<float>(M * K, "a"), b = values<float>(K * N, "b");
  std::vector<float> whole(M * N), row(N);
  ops::block::gemm<float>(false, false, M, N, K, a.data(), K, b.data(), N, whole.data(), N, false);
  for (int64_t m = 0; m < M; ++m) {
    ops::block::gemm<float>(false, false, 1, N, K, a.data() + m * K, K, b.data(), N, row.data(), N,
                            false);
    for (int64_t n = 0; n < N; ++n) {
      EXPECT_EQ(row[static_cast<size_t>(n)], whole[static_cast<size_t>(m * N + n)]);
    }
  }
}

template <class T>
void expect_transposed(int64_t rows, int64_t cols) {
  std::vector<T> x(static_cast<size_t>(rows * (cols + 2)));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i);
  std::vector<T> y(static_cast<size_t>(cols * (rows + 1)), static_cast<T>(-1));
  ops::block::transpose<T>(rows, cols, x.data(), cols + 2, y.data(), rows + 1);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      EXPECT_EQ(y[static_cast<size_t>(c * (rows + 1) + r)],
                x[static_cast<size_t>(r * (cols + 2) + c)]);
    }
  }
}

TEST(BlockGemm, Transposes) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {16, 16}, {33, 50}, {64, 7}, {96, 200}}) {
    expect_transposed<float>(rows, cols);
    expect_transposed<double>(rows, cols);
    expect_transposed<uint16_t>(rows, cols);
  }
}

}  // namespace block_gemm_test_detail

}  // namespace strata::testing
