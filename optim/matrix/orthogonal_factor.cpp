#include "optim/matrix/orthogonal_factor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_householder_product.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/matrix_product.h"
#include "optim/matrix/large_product.h"
#include "optim/matrix/random_signs.h"
#include "optim/matrix/symmetric_product.h"

namespace strata {

bool is_orthogonal(const Tensor& q, double bound) {
  constexpr int64_t kVectors = 4;
  const Rng random(0, "soap", "orthogonality");
  const Tensor z = random_signs(q.size(1), kVectors, random).to(q.options());
  const Tensor back = ops::matrix_product(q.t(), ops::matrix_product(q, z));
  return (back - z).abs().max().item<double>() <= bound;
}

Tensor orthogonal_factor_by_reflections(const Tensor& x) {
  const auto [reflections, tau] = at::geqrf(x);
  return at::linalg_householder_product(reflections, tau);
}

std::optional<Tensor> orthogonal_factor_by_gram(const Tensor& x) {
  const int64_t k = x.size(1);
  const double rounding = x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                                         : std::numeric_limits<float>::epsilon();
  // Squares in fp64: those of small fp32 entries are zero.
  const Tensor lengths = at::linalg_vector_norm(x, 2, at::IntArrayRef{0}, false, at::kDouble);
  const double least = lengths.min().item<double>(), most = lengths.max().item<double>();
  if (!(least > 0) || !std::isfinite(most)) return std::nullopt;
  Tensor q = x * lengths.reciprocal().to(x.scalar_type());
  for (const int round : {0, 1}) {
    const Tensor gram = symmetric_product(q.t(), q);
    const double away = (gram - at::eye(k, gram.options())).abs().max().item<double>();
    if (!std::isfinite(away)) return std::nullopt;
    if (away <= 100 * rounding) return q;
    if (round == 1 && away > .1) return std::nullopt;
    const auto [factor, info] = at::linalg_cholesky_ex(gram);
    if (info.item<int64_t>() != 0) return std::nullopt;
    const Tensor inverse =
        at::linalg_solve_triangular(factor, at::eye(k, gram.options()), /*upper=*/false);
    q = large_product(q, inverse.t());
  }
  if (!is_orthogonal(q)) return std::nullopt;
  return q;
}

}  // namespace strata
