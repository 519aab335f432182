#include "optim/matrix/newton_schulz_slabs.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>

#include <algorithm>
#include <cmath>

#include "core/ops/matrix_product.h"
#include "optim/matrix/newton_schulz.h"
#include "optim/matrix/slab_grams.h"
#include "optim/matrix/symmetric_product.h"

namespace strata {
namespace newton_schulz_slabs_detail {

bool rounded(at::ScalarType compute) { return compute != at::kFloat && compute != at::kDouble; }

// One matrix between the sums.
class Slabbed {
 public:
  Slabbed(Slab& slab, bool gram) : slab_(slab), gram_(gram) {}

  bool sums_before(size_t step) const { return starts_newton_schulz_gram(step) || !gram_; }

  // This rank's part of X.
  const Tensor& current() {
    if (q_.defined()) x_ = ops::matrix_product(q_, x_);
    q_ = Tensor();
    return x_;
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

  void end() { slab_.x.copy_(current()); }

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
  std::vector<Tensor> given;
  for (const Slab& slab : slabs) given.push_back(slab.x);
  const std::vector<double> squares = slab_squares(given, sum);
  std::vector<Slabbed> matrices;
  for (size_t i = 0; i < slabs.size(); ++i) {
    Slab& slab = slabs[i];
    const double norm = how.pre * std::sqrt(squares[i]);
    const double by = how.clamp ? std::max(norm, how.eps) : norm + how.eps;
    matrices.emplace_back(
        slab, !rounded(compute) && takes_newton_schulz_gram(slab.x.size(0), slab.length, steps));
    // Zero gives zero.
    matrices.back().begin(norm == 0 ? 0 : 1 / by, compute);
  }
  for (size_t k = 0; k < steps; ++k) {
    std::vector<Tensor> summed;
    for (Slabbed& m : matrices) {
      if (m.sums_before(k)) summed.push_back(m.current());
    }
    const std::vector<Tensor> grams = slab_grams(summed, sum);
    auto gram = grams.begin();
    const bool keeps_gram = k + 1 < steps && !starts_newton_schulz_gram(k + 1);
    for (Slabbed& m : matrices)
      m.step(m.sums_before(k) ? *gram++ : Tensor(), how.steps[k], keeps_gram);
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
