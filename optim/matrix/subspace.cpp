#include "optim/matrix/subspace.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/ops/matrix_product.h"
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

Tensor orthonormal(const Tensor& x) { return std::get<0>(at::linalg_qr(x)).contiguous(); }

Tensor by_gram(const Tensor& x, int64_t rank) {
  if (x.size(0) <= x.size(1)) return top_eigenvectors(symmetric_product(x, x.t()), rank);
  // x v has the directions; QR, because lengths near zero say little about them.
  return orthonormal(ops::matrix_product(x, top_eigenvectors(symmetric_product(x.t(), x), rank)));
}

Tensor by_sampling(const Tensor& x, int64_t rank, const Rng& random) {
  const int64_t n = x.size(1), width = std::min({rank + 8, x.size(0), n});
  Tensor samples = at::empty({n, width}, at::TensorOptions().dtype(at::kFloat));
  random.fill_normal(0, samples.numel(), samples.mutable_data_ptr<float>());
  Tensor y = orthonormal(ops::matrix_product(x, samples.to(x.options())));
  for (int i = 0; i < 2; ++i) {
    const Tensor z = orthonormal(ops::matrix_product(x.t(), y));
    y = orthonormal(ops::matrix_product(x, z));
  }
  const Tensor small = ops::matrix_product(y.t(), x);
  return ops::matrix_product(y, top_eigenvectors(symmetric_product(small, small.t()), rank));
}

Tensor with_canonical_signs(const Tensor& u) {
  const Tensor largest = u.gather(0, u.abs().argmax(0, /*keepdim=*/true));
  return u * largest.sign();
}

}  // namespace subspace_detail

Tensor leading_vectors(const Tensor& x, int64_t rank, SubspaceMethod method, const Rng& random) {
  namespace d = subspace_detail;
  const Tensor wide = x.to(at::kDouble);
  const double squares = wide.square().sum().item<double>();
  if (!std::isfinite(squares) || squares == 0) return {};
  const bool sample =
      method == SubspaceMethod::Randomized && std::min(x.size(0), x.size(1)) >= 4 * rank;
  Tensor u;
  try {
    if (method == SubspaceMethod::Full) {
      u = std::get<0>(at::linalg_svd(wide, /*full_matrices=*/false)).slice(1, 0, rank);
    } else {
      u = sample ? d::by_sampling(x, rank, random).to(at::kDouble) : d::by_gram(wide, rank);
    }
  } catch (const c10::LinAlgError&) {  // LAPACK did not converge
    return {};
  }
  u = d::with_canonical_signs(u);
  return std::isfinite(u.sum().item<double>()) ? u : Tensor();
}

}  // namespace strata
