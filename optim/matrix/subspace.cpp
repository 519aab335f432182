#include "optim/matrix/subspace.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
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
  return orthogonal_factor_by_reflections(x).contiguous();
}

// From samples of the range of a Gram matrix.
Tensor top_by_sampling(const Tensor& gram, int64_t rank, const Rng& random) {
  const int64_t width = std::min(rank + 8, gram.size(0));
  Tensor y = at::empty({gram.size(0), width}, at::TensorOptions().dtype(at::kFloat));
  random.fill_normal(0, y.numel(), y.mutable_data_ptr<float>());
  y = y.to(gram.options());
  for (int i = 0; i < 3; ++i) y = orthonormal(large_product(gram, y));
  const Tensor small = symmetric_product(y.t(), large_product(gram, y));
  return large_product(y, top_eigenvectors(small, rank));
}

// Vectors of the smaller side; `longer` is the other one.
Tensor top_of_gram(const Tensor& gram, int64_t longer, int64_t rank, SubspaceMethod method,
                   const Rng& random) {
  const bool sample =
      method == SubspaceMethod::Randomized && std::min(gram.size(0), longer) >= 4 * rank;
  return sample ? top_by_sampling(gram, rank, random) : top_eigenvectors(gram, rank);
}

Tensor through_gram(const Tensor& x, int64_t rank, SubspaceMethod method, const Rng& random) {
  const int64_t longer = std::max(x.size(0), x.size(1));
  if (x.size(0) <= x.size(1))
    return top_of_gram(symmetric_product(x, x.t()), longer, rank, method, random);
  // x v has the directions; QR, because lengths near zero say little about them.
  const Tensor v = top_of_gram(symmetric_product(x.t(), x), longer, rank, method, random);
  return orthonormal(large_product(x, v));
}

Tensor with_canonical_signs(const Tensor& u) {
  const Tensor largest = u.gather(0, u.abs().argmax(0, /*keepdim=*/true));
  return u * largest.sign();
}

// What `find` gives, in fp64 and with signs; undefined when it fails.
template <class Find>
Tensor canonical(Find&& find) {
  Tensor u;
  try {
    u = find().to(at::kDouble);
  } catch (const c10::LinAlgError&) {  // LAPACK did not converge
    return {};
  }
  u = with_canonical_signs(u);
  return std::isfinite(u.sum().template item<double>()) ? u : Tensor();
}

}  // namespace subspace_detail

Tensor leading_vectors(const Tensor& x, int64_t rank, SubspaceMethod method, const Rng& random) {
  const double length = at::linalg_vector_norm(x, 2, {}, false, at::kDouble).item<double>();
  if (!std::isfinite(length) || length == 0) return {};
  return subspace_detail::canonical([&] {
    if (method == SubspaceMethod::Full) {
      return std::get<0>(at::linalg_svd(x.to(at::kDouble), /*full_matrices=*/false))
          .slice(1, 0, rank);
    }
    // Squares neither over- nor underflow.
    return subspace_detail::through_gram(x * (1 / length), rank, method, random);
  });
}

Tensor leading_vectors_of_gram(const Tensor& gram, int64_t rank, SubspaceMethod method,
                               const Rng& random) {
  STRATA_CHECK(method != SubspaceMethod::Full,
               "a Gram matrix has no singular values of its matrix");
  const double trace = gram.trace().item<double>();
  if (!std::isfinite(trace) || trace == 0) return {};
  return subspace_detail::canonical(
      [&] { return subspace_detail::top_of_gram(gram, gram.size(0), rank, method, random); });
}

}  // namespace strata
