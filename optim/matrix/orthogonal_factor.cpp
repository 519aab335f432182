#include "optim/matrix/orthogonal_factor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_householder_product.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

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

namespace orthogonal_factor_detail {

// Columns that LAPACK reflects at a time. Wider: fewer passes over the rest, but more work there.
constexpr int64_t kPanel = 96;

// H_1 ... H_b = I - V T V^T: V [n, b] has ones on its diagonal and zeros above it.
struct Reflections {
  Tensor v, t;
};

Reflections reflections_of(const Tensor& panel) {
  const auto [packed, tau] = at::geqrf(panel);
  const Tensor v = packed.tril(-1).contiguous();
  v.diagonal().fill_(1);
  // 1/T = diag(1/tau) + the upper half of V^T V, times diag(tau): the last tau of a square is zero.
  const Tensor inverse = large_product(v.t(), v).triu(1) * tau.unsqueeze(1);
  return {v, at::linalg_solve_triangular(inverse, at::diag(tau), /*upper=*/true, /*left=*/true,
                                         /*unitriangular=*/true)};
}

// rows <- rows (I - V T V^T)
void reflect(const Tensor& rows, const Tensor& v, const Tensor& t) {
  large_product_out(rows, large_product(large_product(rows, v), -t), v.t(), /*accumulate=*/true);
}

}  // namespace orthogonal_factor_detail

// Most of the work as products, which are faster here than in LAPACK (bench/optimizers.cpp). They
// take the columns of x and Q as rows, so that what is wide stays in place and what is narrow in
// the cache.
Tensor orthogonal_factor_by_reflections(const Tensor& x) {
  using namespace orthogonal_factor_detail;
  const int64_t n = x.size(0), k = x.size(1);
  if (!x.is_cpu() || k <= 2 * kPanel) {
    const auto [packed, tau] = at::geqrf(x);
    return at::linalg_householder_product(packed, tau);
  }
  const Tensor columns = x.t().clone(at::MemoryFormat::Contiguous);
  std::vector<Reflections> panels;
  for (int64_t j = 0; j < k; j += kPanel) {
    const int64_t end = std::min(j + kPanel, k);
    const Tensor below = columns.slice(1, j);
    const auto& [v, t] = panels.emplace_back(reflections_of(below.slice(0, j, end).t()));
    if (end < k) reflect(below.slice(0, end), v, t);
  }
  const Tensor q = at::eye(k, n, x.options());
  for (int64_t i = std::ssize(panels) - 1; i >= 0; --i) {
    const auto& [v, t] = panels[static_cast<size_t>(i)];
    reflect(q.slice(0, i * kPanel).slice(1, i * kPanel), v, t.t());
  }
  return q.t();
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
