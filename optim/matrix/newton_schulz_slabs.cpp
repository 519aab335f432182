#include "optim/matrix/newton_schulz_slabs.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "core/ops/matrix_product.h"
#include "optim/matrix/newton_schulz.h"
#include "optim/matrix/symmetric_product.h"

namespace strata {
namespace newton_schulz_slabs_detail {

bool rounded(at::ScalarType compute) { return compute != at::kFloat && compute != at::kDouble; }

// One matrix between the sums.
class Slabbed {
 public:
  Slabbed(Slab& slab, bool gram) : slab_(slab), gram_(gram) {}

  int64_t rows() const { return slab_.x.size(0); }
  bool sums_before(size_t step) const { return starts_newton_schulz_gram(step) || !gram_; }

  // This rank's part of X X^T before a step that needs it.
  void add_gram(const Tensor& to) {
    if (q_.defined()) x_ = ops::matrix_product(q_, x_);
    q_ = Tensor();
    if (rounded(x_.scalar_type())) {
      to.copy_(at::mm(x_, x_.t()));
    } else {
      symmetric_product_out(to, x_, x_.t());
    }
  }

  void begin(double scale, at::ScalarType compute) {
    const at::ScalarType wide = compute == at::kDouble ? compute : slab_.x.scalar_type();
    x_ = (slab_.x.to(wide) * scale).to(compute).contiguous();
  }

  // r: X X^T where this step needs it anew, otherwise undefined.
  void step(const Tensor& r, const OddPolynomial& polynomial, bool keeps_gram) {
    if (rounded(x_.scalar_type())) return step_rounded(r.to(x_.scalar_type()), polynomial);
    if (r.defined()) r_ = r.clone();
    const auto [a, b, c] = polynomial;
    Tensor p = r_ * b;
    if (c != 0) {
      const Tensor scaled = r_ * c;
      scaled.diagonal().add_(b);
      symmetric_product_out(p, r_, scaled);
    }
    p.diagonal().add_(a);
    if (!gram_) {
      x_ = ops::matrix_product(p, x_);
      return;
    }
    q_ = q_.defined() ? symmetric_product(q_, p) : p;
    if (keeps_gram) r_ = symmetric_product(p, symmetric_product(r_, p));
  }

  void end() {
    if (q_.defined()) x_ = ops::matrix_product(q_, x_);
    slab_.x.copy_(x_);
  }

 private:
  // a X is added in fp32, as in newton_schulz.
  void step_rounded(const Tensor& r, const OddPolynomial& polynomial) {
    const auto [a, b, c] = polynomial;
    const Tensor p = c == 0 ? r * b : at::addmm(r, r, r, b, c);
    x_ = at::addmm(x_, p, x_, a, 1);
  }

  Slab& slab_;
  bool gram_;
  Tensor x_, r_, q_;  // X is q_ x_ where q_ is defined
};

}  // namespace newton_schulz_slabs_detail

void newton_schulz_slabs(std::span<Slab> slabs, const NewtonSchulz& how, at::ScalarType compute,
                         const std::function<void(const Tensor&)>& sum) {
  using namespace newton_schulz_slabs_detail;
  if (slabs.empty()) return;
  const size_t steps = how.steps.size();
  const auto count = static_cast<int64_t>(slabs.size());
  const at::TensorOptions on = slabs[0].x.options();
  Tensor squares = at::zeros({count}, on.dtype(at::kDouble));
  for (int64_t i = 0; i < count; ++i)
    squares[i].copy_(slabs[static_cast<size_t>(i)].x.to(at::kDouble).square().sum());
  sum(squares);
  squares = squares.cpu();
  std::vector<Slabbed> matrices;
  for (int64_t i = 0; i < count; ++i) {
    Slab& slab = slabs[static_cast<size_t>(i)];
    const double norm = how.pre * std::sqrt(squares[i].item<double>());
    const double by = how.clamp ? std::max(norm, how.eps) : norm + how.eps;
    matrices.emplace_back(
        slab, !rounded(compute) && takes_newton_schulz_gram(slab.x.size(0), slab.length, steps));
    // Zero gives zero.
    matrices.back().begin(norm == 0 ? 0 : 1 / by, compute);
  }
  const at::ScalarType wide = accumulate_dtype(compute);
  for (size_t k = 0; k < steps; ++k) {
    int64_t elements = 0;
    for (const Slabbed& m : matrices) elements += m.sums_before(k) ? m.rows() * m.rows() : 0;
    const Tensor together = at::empty({elements}, on.dtype(wide));
    int64_t at = 0;
    std::vector<Tensor> grams;
    for (Slabbed& m : matrices) {
      grams.emplace_back();
      if (!m.sums_before(k)) continue;
      const int64_t n = m.rows();
      grams.back() = together.narrow(0, at, n * n).view({n, n});
      m.add_gram(grams.back());
      at += n * n;
    }
    if (elements > 0) sum(together);
    const bool keeps_gram = k + 1 < steps && !starts_newton_schulz_gram(k + 1);
    for (size_t i = 0; i < matrices.size(); ++i)
      matrices[i].step(grams[i], how.steps[k], keeps_gram);
  }
  for (Slabbed& m : matrices) m.end();
}

int64_t newton_schulz_slabs_elements(int64_t rows, int64_t cols, const NewtonSchulz& how) {
  const int64_t m = std::min(rows, cols);
  const size_t steps = how.steps.size();
  const bool gram = takes_newton_schulz_gram(m, std::max(rows, cols), steps);
  int64_t sums = 0;
  for (size_t k = 0; k < steps; ++k) sums += !gram || starts_newton_schulz_gram(k) ? 1 : 0;
  return sums * m * m;
}

}  // namespace strata
