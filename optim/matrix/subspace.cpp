#include "optim/matrix/subspace.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "optim/matrix/large_product.h"
#include "optim/matrix/orthogonal_factor.h"
#include "optim/matrix/random_signs.h"
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
  Tensor y = random_signs(gram.size(0), width, random).to(gram.options());
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

Tensor gram_of(const Tensor& x) {
  return x.size(0) <= x.size(1) ? symmetric_product(x, x.t()) : symmetric_product(x.t(), x);
}

double length_of(const Tensor& x) {
  return at::linalg_vector_norm(x, 2, {}, false, at::kDouble).item<double>();
}

// The smaller Gram matrix of x, of trace 1; undefined if x is zero or not finite. Where squares
// over- or underflow x is brought to length 1 first.
Tensor unit_gram(const Tensor& x) {
  const double far = x.scalar_type() == at::kDouble ? 1e200 : 1e25;
  Tensor gram = gram_of(x);
  double trace = gram.trace().item<double>();
  if (!(trace > 1 / far && trace < far)) {
    const double length = length_of(x);
    if (!std::isfinite(length) || length == 0) return {};
    gram = gram_of(x * (1 / length));
    trace = gram.trace().item<double>();
  }
  return gram.mul_(1 / trace);
}

Tensor through_gram(const Tensor& x, const Tensor& gram, int64_t rank, SubspaceMethod method,
                    const Rng& random) {
  const Tensor v = top_of_gram(gram, std::max(x.size(0), x.size(1)), rank, method, random);
  // x v has the directions; QR, because lengths near zero say little about them.
  return x.size(0) <= x.size(1) ? v : orthonormal(large_product(x, v));
}

Tensor with_canonical_signs(const Tensor& u) {
  const Tensor largest = u.gather(0, u.abs().argmax(0, /*keepdim=*/true));
  return u * largest.sign();
}

// What `find` gives, with signs; undefined when it fails.
template <class Find>
Tensor canonical(Find&& find) {
  Tensor u;
  try {
    u = find();
  } catch (const c10::LinAlgError&) {  // LAPACK did not converge
    return {};
  }
  u = with_canonical_signs(u);
  return std::isfinite(u.sum().template item<double>()) ? u : Tensor();
}

}  // namespace subspace_detail

Tensor leading_vectors(const Tensor& x, int64_t rank, SubspaceMethod method, const Rng& random) {
  namespace d = subspace_detail;
  if (method == SubspaceMethod::Full) {
    const double length = d::length_of(x);
    if (!std::isfinite(length) || length == 0) return {};
    return d::canonical([&] {
      const Tensor u = std::get<0>(at::linalg_svd(x.to(at::kDouble), /*full_matrices=*/false));
      return u.slice(1, 0, rank).to(x.scalar_type());
    });
  }
  const Tensor gram = d::unit_gram(x);
  if (!gram.defined()) return {};
  return d::canonical([&] { return d::through_gram(x, gram, rank, method, random); });
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
