#include "optim/rules/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

#include "core/config/visitor.h"
#include "core/error.h"

namespace strata {

void AdamWConfig::visit(ConfigVisitor& v) {
  v.field("beta1", beta1, fraction_below_one(), "decay of the first moment");
  v.field("beta2", beta2, fraction_below_one(), "decay of the second moment");
  v.field("eps", eps, non_negative(), "added to the root of the second moment");
  v.field("weight_decay", weight_decay, non_negative(), "decoupled weight decay");
}

namespace adamw_detail {

template <class T>
__attribute__((optimize("O3"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
direction(const T* g, T* m, T* v, T* delta, int64_t n, T beta2, T one_minus_beta1,
          T one_minus_beta2, T inv_bias1, T inv_root_bias2, T eps) {
  for (int64_t i = 0; i < n; ++i) {
    const T mi = m[i] + one_minus_beta1 * (g[i] - m[i]);
    const T vi = beta2 * v[i] + one_minus_beta2 * g[i] * g[i];
    m[i] = mi;
    v[i] = vi;
    delta[i] = mi * inv_bias1 / (std::sqrt(vi) * inv_root_bias2 + eps);
  }
}

template <class T>
void run(const AdamWConfig& c, const Tensor& grad, Tensor& m, Tensor& v, Tensor& delta, int64_t t) {
  const double bias1 = 1 - std::pow(c.beta1, static_cast<double>(t));
  const double bias2 = 1 - std::pow(c.beta2, static_cast<double>(t));
  const T* g = grad.const_data_ptr<T>();
  T *mp = m.mutable_data_ptr<T>(), *vp = v.mutable_data_ptr<T>(), *dp = delta.mutable_data_ptr<T>();
  at::parallel_for(0, grad.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
    direction<T>(g + begin, mp + begin, vp + begin, dp + begin, end - begin,
                 static_cast<T>(c.beta2), static_cast<T>(1 - c.beta1), static_cast<T>(1 - c.beta2),
                 static_cast<T>(1 / bias1), static_cast<T>(1 / std::sqrt(bias2)),
                 static_cast<T>(c.eps));
  });
}

class AdamW final : public UpdateRule {
 public:
  explicit AdamW(const AdamWConfig& config) : c_(config) {}
  std::string name() const override { return "adamw"; }
  Needs needs() const override { return Needs::Slice; }
  double weight_decay() const override { return c_.weight_decay; }
  std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const override {
    return {{"m", shape, dtype}, {"v", shape, dtype}};
  }
  void update(std::span<Piece> pieces, int64_t updates) const override {
    for (Piece& piece : pieces) update_one(piece, updates + 1);
  }

 private:
  void update_one(Piece& piece, int64_t t) const {
    const Tensor grad = piece.grad * piece.grad_scale;
    Tensor delta = at::empty_like(grad);
    if (!grad.is_cpu()) {
      composite(grad, piece.state[0], piece.state[1], delta, t);
    } else if (grad.scalar_type() == at::kDouble) {
      run<double>(c_, grad, piece.state[0], piece.state[1], delta, t);
    } else {
      STRATA_CHECK(grad.scalar_type() == at::kFloat, "adamw updates fp32 or fp64 masters");
      run<float>(c_, grad, piece.state[0], piece.state[1], delta, t);
    }
    apply_direction(piece, delta);
  }

  void composite(const Tensor& grad, Tensor& m, Tensor& v, Tensor& delta, int64_t t) const {
    m.lerp_(grad, 1 - c_.beta1);
    v.mul_(c_.beta2).addcmul_(grad, grad, 1 - c_.beta2);
    const double bias1 = 1 - std::pow(c_.beta1, static_cast<double>(t));
    const double bias2 = 1 - std::pow(c_.beta2, static_cast<double>(t));
    delta.copy_(m / bias1 / (v.sqrt() / std::sqrt(bias2) + c_.eps));
  }
  AdamWConfig c_;
};

}  // namespace adamw_detail

std::unique_ptr<UpdateRule> make_adamw(const AdamWConfig& config) {
  return std::make_unique<adamw_detail::AdamW>(config);
}

}  // namespace strata
