#include "optim/matrix/orthogonal_factor.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/logspace.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "tests/support/update_replay.h"

namespace strata {
namespace orthogonal_factor_test {

using testing::normal;

double away_from_identity(const Tensor& q) {
  const Tensor wide = q.to(at::kDouble);
  return (wide.t().mm(wide) - at::eye(q.size(1), wide.options())).abs().max().item<double>();
}

// Columns of very different lengths; square and tall; one block of columns and several.
TEST(OrthogonalFactor, IsHouseholdersUpToSigns) {
  for (const auto& [n, k] : {std::pair(7, 7), {40, 13}, {300, 300}, {700, 530}}) {
    const Tensor lengths = at::logspace(0, -12, k, 10, at::TensorOptions().dtype(at::kDouble));
    const Tensor x = (normal({n, k}, 1) + 20 * at::eye(n, k, lengths.options())) * lengths;
    const auto [wanted, r] = at::linalg_qr(x);
    const std::optional<Tensor> q = orthogonal_factor_by_gram(x);
    ASSERT_TRUE(q.has_value()) << n << " " << k;
    EXPECT_LE(away_from_identity(*q), 3e-14) << n << " " << k;
    const Tensor reflected = orthogonal_factor_by_reflections(x);
    EXPECT_LE((reflected - wanted).abs().max().item<double>(), 1e-13) << n << " " << k;
    EXPECT_LE(away_from_identity(orthogonal_factor_by_reflections(x.to(at::kFloat))), 1e-5);
    const Tensor same = wanted * r.diagonal().sign();
    EXPECT_LE((*q - same).abs().max().item<double>(), 1e-12) << n << " " << k;

    const Tensor narrow = (x * 1e-15).to(at::kFloat);
    const std::optional<Tensor> p = orthogonal_factor_by_gram(narrow);
    ASSERT_TRUE(p.has_value()) << n << " " << k;
    EXPECT_LE(away_from_identity(*p), 2e-5) << n << " " << k;
    EXPECT_LE((p->to(at::kDouble) - same).abs().max().item<double>(), 1e-4) << n << " " << k;
  }
}

// Nearly dependent columns: orthogonal to rounding, or refused.
TEST(OrthogonalFactor, NearlyDependentColumns) {
  const Tensor x = normal({400, 200}, 2);
  bool refused = false, taken = false;
  for (const double apart : {1e-1, 1e-2, 1e-3, 1e-5, 1e-9}) {
    const Tensor near = x.narrow(1, 0, 100) + apart * x.narrow(1, 100, 100);
    const Tensor all = at::cat({x.narrow(1, 0, 100), near}, 1).to(at::kFloat);
    EXPECT_LE(away_from_identity(orthogonal_factor_by_reflections(all)), 1e-5) << apart;
    const std::optional<Tensor> q = orthogonal_factor_by_gram(all);
    (q ? taken : refused) = true;
    if (q) {
      EXPECT_LE(away_from_identity(*q), 2e-5) << apart;
    }
  }
  EXPECT_TRUE(taken);
  EXPECT_TRUE(refused);
}

TEST(OrthogonalFactor, RefusesWhatHasNone) {
  Tensor x = normal({9, 5}, 3);
  x.select(1, 2).zero_();
  EXPECT_FALSE(orthogonal_factor_by_gram(x));
  x = normal({9, 5}, 3);
  x[4][1].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_FALSE(orthogonal_factor_by_gram(x));
  EXPECT_FALSE(is_orthogonal(x));
  EXPECT_TRUE(is_orthogonal(at::eye(5, x.options())));
  EXPECT_FALSE(is_orthogonal(at::eye(5, x.options()) * 1.01));
}

// Reflections that reflect nothing: of columns of zeros, of all.
TEST(OrthogonalFactor, ReflectsColumnsOfZeros) {
  Tensor x = normal({300, 300}, 4);
  x.narrow(1, 90, 20).zero_();
  EXPECT_LE(away_from_identity(orthogonal_factor_by_reflections(x)), 1e-13);
  const Tensor none = orthogonal_factor_by_reflections(at::zeros_like(x));
  EXPECT_TRUE(none.equal(at::eye(300, x.options())));
}

}  // namespace orthogonal_factor_test
}  // namespace strata
