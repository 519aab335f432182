#include "optim/matrix/subspace.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "optim/matrix/large_product.h"
#include "optim/matrix/orthogonal_factor.h"
#include "optim/matrix/symmetric_product.h"

namespace strata {

SubspaceMethod parse_subspace_method(const std::string& name) {
  if (name == "full") return SubspaceMethod::Full;
  if (name == "randomized") return SubspaceMethod::Randomized;
  STRATA_CHECK(name == "gram", "unknown way to find a subspace");
  return SubspaceMethod::Gram;
}

namespace subspace_detail {

// Eigenvectors of the largest eigenvalues of a symmetric matrix, largest first.
Tensor top_eigenvectors(const Tensor& s, int64_t rank) {
  const int64_t n = s.size(0);
  return std::get<1>(at::linalg_eigh(s)).slice(1, n - rank, n).flip(1).contiguous();
}

Tensor orthonormal(const Tensor& x) {
  if (const std::optional<Tensor> q = orthogonal_factor_by_gram(x)) return *q;
  return std::get<0>(at::linalg_qr(x)).contiguous();
}

Tensor by_gram(const Tensor& x, int64_t rank) {
  if (x.size(0) <= x.size(1)) return top_eigenvectors(symmetric_product(x, x.t()), rank);
  // x v has the directions; QR, because lengths near zero say little about them.
  return orthonormal(large_product(x, top_eigenvectors(symmetric_product(x.t(), x), rank)));
}

// Left vectors of a wide x from samples of the range of x x^T, the others through x.
Tensor by_sampling(const Tensor& x, int64_t rank, const Rng& random) {
  const bool wide = x.size(0) <= x.size(1);
  const Tensor gram = wide ? symmetric_product(x, x.t()) : symmetric_product(x.t(), x);
  const int64_t width = std::min(rank + 8, gram.size(0));
  Tensor y = at::empty({gram.size(0), width}, at::TensorOptions().dtype(at::kFloat));
  random.fill_normal(0, y.numel(), y.mutable_data_ptr<float>());
  y = y.to(x.options());
  for (int i = 0; i < 3; ++i) y = orthonormal(large_product(gram, y));
  const Tensor small = symmetric_product(y.t(), large_product(gram, y));
  const Tensor found = large_product(y, top_eigenvectors(small, rank));
  return wide ? found : orthonormal(large_product(x, found));
}

Tensor with_canonical_signs(const Tensor& u) {
  const Tensor largest = u.gather(0, u.abs().argmax(0, /*keepdim=*/true));
  return u * largest.sign();
}

}  // namespace subspace_detail

Tensor leading_vectors(const Tensor& x, int64_t rank, SubspaceMethod method, const Rng& random) {
  namespace d = subspace_detail;
  const double length = at::linalg_vector_norm(x, 2, {}, false, at::kDouble).item<double>();
  if (!std::isfinite(length) || length == 0) return {};
  const bool sample =
      method == SubspaceMethod::Randomized && std::min(x.size(0), x.size(1)) >= 4 * rank;
  Tensor u;
  try {
    if (method == SubspaceMethod::Full) {
      u = std::get<0>(at::linalg_svd(x.to(at::kDouble), /*full_matrices=*/false));
      u = u.slice(1, 0, rank);
    } else {
      const Tensor unit = x * (1 / length);  // squares neither over- nor underflow
      u = (sample ? d::by_sampling(unit, rank, random) : d::by_gram(unit, rank)).to(at::kDouble);
    }
  } catch (const c10::LinAlgError&) {  // LAPACK did not converge
    return {};
  }
  u = d::with_canonical_signs(u);
  return std::isfinite(u.sum().item<double>()) ? u : Tensor();
}

}  // namespace strata
