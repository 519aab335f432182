#include "optim/matrix/newton_schulz.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/ops/block_gemm.h"
#include "optim/matrix/large_product.h"
#include "optim/matrix/passes.h"
#include "optim/matrix/symmetric_product.h"

namespace strata {
namespace newton_schulz_detail {

// Sixteen running sums, added up at the end: an order that depends on n alone.
template <class T>
__attribute__((optimize("O3"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) double
sum_of_squares(const T* x, int64_t n) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t k = 0; k < 16; ++k) sums[k] += static_cast<double>(x[i + k]) * x[i + k];
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(x[i]) * x[i];
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

double norm_of(const Tensor& x) {
  if (x.scalar_type() == at::kDouble)
    return std::sqrt(sum_of_squares(x.const_data_ptr<double>(), x.numel()));
  return std::sqrt(sum_of_squares(x.const_data_ptr<float>(), x.numel()));
}

// p = a I + b r + c r r, a matrix of the same eigenvectors. scratch: overwritten.
void polynomial(const Tensor& p, const Tensor& r, const OddPolynomial& step, Tensor& scratch) {
  const auto [a, b, c] = step;
  if (c == 0) {
    Tensor out = p;
    at::mul_out(out, r, at::scalar_tensor(b, r.options()));
  } else {
    at::mul_out(scratch, r, at::scalar_tensor(c, r.options()));
    scratch.diagonal().add_(b);
    symmetric_product_out(p, r, scratch);
  }
  p.diagonal().add_(a);
}

Tensor iterate(Tensor x, const std::vector<OddPolynomial>& steps) {
  const int64_t m = x.size(0);
  Tensor r = at::empty({m, m}, x.options()), p = at::empty_like(r), scratch = at::empty_like(r);
  Tensor next = at::empty_like(x);
  for (const OddPolynomial& step : steps) {
    symmetric_product_out(r, x, x.t());
    polynomial(p, r, step, scratch);
    large_product_out(next, p, x);
    std::swap(x, next);
  }
  return x;
}

// Symmetric matrices of 16 bits, of which the lower half is computed, a quarter of the rows at a
// time.
class HalfComputed {
 public:
  HalfComputed(int64_t m, const at::TensorOptions& on)
      : whole_(at::empty({m, m}, on)), block_(at::empty({m * part()}, on)) {}
  const Tensor& whole() const { return whole_; }

  // block_of(to, begin, rows, columns): rows [begin, begin + rows) up to the diagonal.
  template <class BlockOf>
  void compute(BlockOf&& block_of) {
    const int64_t m = whole_.size(0);
    for (int64_t begin = 0; begin < m; begin += part()) {
      const int64_t rows = std::min(part(), m - begin), columns = begin + rows;
      Tensor block = block_.narrow(0, 0, rows * columns).view({rows, columns});
      block_of(block, begin, rows, columns);
      whole_.narrow(0, begin, rows).narrow(1, 0, columns).copy_(block);
      const auto* from = static_cast<const uint16_t*>(block.const_data_ptr());
      auto* to = static_cast<uint16_t*>(whole_.mutable_data_ptr());
      ops::block::transpose(rows, begin, from, columns, to + begin, m);
    }
  }

 private:
  int64_t part() const {
    constexpr int64_t kWorth = 512, kParts = 4;
    const int64_t m = whole_.size(0);
    return m < kWorth ? m : (m + kParts - 1) / kParts;
  }
  Tensor whole_, block_;
};

// 16 bits: a X is added to B X in fp32, because an identity within P would be rounded with it. x of
// either orientation, as it lies.
Tensor iterate_rounded(Tensor x, const std::vector<OddPolynomial>& steps) {
  const bool tall = x.size(0) > x.size(1);
  const int64_t m = std::min(x.size(0), x.size(1));
  HalfComputed r(m, x.options()), p(m, x.options());
  Tensor next = at::empty_like(x);
  for (const auto& [a, b, c] : steps) {
    const Tensor wide = tall ? x.t() : x;
    r.compute([&](Tensor& to, int64_t begin, int64_t rows, int64_t columns) {
      at::mm_out(to, wide.narrow(0, begin, rows), wide.narrow(0, 0, columns).t());
    });
    p.compute([&, b = b, c = c](Tensor& to, int64_t begin, int64_t rows, int64_t columns) {
      const Tensor own = r.whole().narrow(0, begin, rows), part_of_r = own.narrow(1, 0, columns);
      if (c == 0) {
        at::mul_out(to, part_of_r, at::scalar_tensor(b, part_of_r.options()));
      } else {
        at::addmm_out(to, part_of_r, own, r.whole().narrow(1, 0, columns), b, c);
      }
    });
    if (tall) {
      at::addmm_out(next, x, x, p.whole(), a, 1);
    } else {
      at::addmm_out(next, x, p.whole(), x, a, 1);
    }
    std::swap(x, next);
  }
  return x;
}

Tensor iterate_gram(Tensor x, const std::vector<OddPolynomial>& steps) {
  const int64_t m = x.size(0);
  Tensor r = at::empty({m, m}, x.options()), p = at::empty_like(r), scratch = at::empty_like(r);
  Tensor q = at::empty_like(r), next = at::empty_like(x);
  for (size_t k = 0; k < steps.size(); ++k) {
    const bool first = starts_newton_schulz_gram(k);
    if (k > 0 && first) {
      large_product_out(next, q, x);
      std::swap(x, next);
    }
    if (first) symmetric_product_out(r, x, x.t());
    polynomial(p, r, steps[k], scratch);
    if (first) {
      q.copy_(p);
    } else {
      symmetric_product_out(scratch, q, p);
      std::swap(q, scratch);
    }
    if (k + 1 < steps.size() && !starts_newton_schulz_gram(k + 1)) {
      symmetric_product_out(scratch, r, p);
      symmetric_product_out(r, p, scratch);
    }
  }
  large_product_out(next, q, x);
  return next;
}

}  // namespace newton_schulz_detail

using namespace newton_schulz_detail;

bool takes_newton_schulz_gram(int64_t m, int64_t n, size_t steps) {
  return n >= 2 * m && steps > 2;
}

bool starts_newton_schulz_gram(size_t step) { return step == 0 || step % 3 == 2; }

Tensor newton_schulz(const Tensor& x, const NewtonSchulz& how, at::ScalarType compute) {
  if (!x.is_cpu()) return newton_schulz_batch(x.unsqueeze(0), how, compute).squeeze(0);
  const bool rounded = compute != at::kFloat && compute != at::kDouble;
  const bool turned = !rounded && x.size(0) > x.size(1);
  Tensor y = (turned ? x.t() : x).contiguous();
  const double norm = how.pre * norm_of(y);
  if (norm == 0) return at::zeros(x.sizes(), x.options().dtype(compute));
  const double by = how.clamp ? std::max(norm, how.eps) : norm + how.eps;
  y = scaled_to(compute == at::kDouble ? y.to(compute) : y, 1 / by, compute);
  if (rounded) {
    y = iterate_rounded(y, how.steps);
  } else if (takes_newton_schulz_gram(y.size(0), y.size(1), how.steps.size())) {
    y = iterate_gram(y, how.steps);
  } else {
    y = iterate(y, how.steps);
  }
  return turned ? y.t().contiguous() : y;
}

Tensor newton_schulz_batch(const Tensor& x, const NewtonSchulz& how, at::ScalarType compute) {
  const bool tall = x.size(1) > x.size(2);
  const Tensor norm = at::linalg_vector_norm(x, 2, at::IntArrayRef{1, 2}, true, at::kDouble);
  const Tensor scaled = norm * how.pre;
  const Tensor by = how.clamp ? scaled.clamp_min(how.eps) : scaled + how.eps;
  Tensor y = (tall ? x.transpose(1, 2) : x).to(compute == at::kDouble ? compute : x.scalar_type());
  y = (y * by.reciprocal().to(y.scalar_type())).to(compute).contiguous();
  for (const auto& [a, b, c] : how.steps) {
    const Tensor r = at::bmm(y, y.transpose(1, 2));
    const Tensor p = c == 0 ? r * b : at::baddbmm(r, r, r, b, c);
    y = at::baddbmm(y, p, y, a, 1);
  }
  return (tall ? y.transpose(1, 2) : y).contiguous();
}

double newton_schulz_flops(int64_t rows, int64_t cols, const NewtonSchulz& how, int slabs) {
  const double m = static_cast<double>(std::min(rows, cols)),
               n = static_cast<double>(std::max(rows, cols)) / slabs;
  const std::vector<OddPolynomial>& steps = how.steps;
  const bool gram =
      takes_newton_schulz_gram(std::min(rows, cols), std::max(rows, cols), steps.size());
  double flops = gram ? 2 * m * m * n : 0;
  for (size_t k = 0; k < steps.size(); ++k) {
    if (steps[k][2] != 0) flops += m * m * m;  // r r
    if (!gram) {
      flops += 3 * m * m * n;
      continue;
    }
    const bool first = starts_newton_schulz_gram(k);
    if (first) flops += (k > 0 ? 3 : 1) * m * m * n;
    if (!first) flops += m * m * m;                                                         // q p
    if (k + 1 < steps.size() && !starts_newton_schulz_gram(k + 1)) flops += 2 * m * m * m;  // p r p
  }
  return flops;
}

}  // namespace strata
