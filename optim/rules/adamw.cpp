#include "optim/rules/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>

#include "core/config/visitor.h"
#include "core/error.h"

namespace strata {

void AdamWConfig::visit(ConfigVisitor& v) {
  v.field("beta1", beta1, fraction_below_one(), "decay of the first moment");
  v.field("beta2", beta2, fraction_below_one(), "decay of the second moment");
  v.field("eps", eps, non_negative(), "added to the root of the second moment");
  v.field("eps_mode", eps_mode, one_of({"post_bc", "pre_bc"}),
          "add eps after or before the bias correction");
  v.field("weight_decay", weight_decay, non_negative(), "decoupled weight decay");
}

namespace adamw_detail {

template <class T>
struct Constants {
  T grad_scale, beta2, one_minus_beta1, one_minus_beta2;
  T step;            // learning rate over the first bias correction
  T inv_root_bias2;  // 1 for pre_bc, whose correction is in `step`
  T eps, keep_before, keep_after;
};

template <class T>
__attribute__((optimize("O3"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
update(const T* g, T* m, T* v, T* w, int64_t n, const Constants<T>& c) {
  for (int64_t i = 0; i < n; ++i) {
    const T gi = g[i] * c.grad_scale;
    const T mi = m[i] + c.one_minus_beta1 * (gi - m[i]);
    const T vi = c.beta2 * v[i] + c.one_minus_beta2 * gi * gi;
    m[i] = mi;
    v[i] = vi;
    w[i] = (w[i] * c.keep_before - c.step * (mi / (std::sqrt(vi) * c.inv_root_bias2 + c.eps))) *
           c.keep_after;
  }
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
    if (c_.skip_first && updates == 0) return;
    const int64_t t = updates + (c_.skip_first ? 0 : 1);
    for (Piece& piece : pieces) {
      if (!piece.weights.is_cpu()) {
        composite(piece, t);
      } else if (piece.weights.scalar_type() == at::kDouble) {
        run<double>(piece, t);
      } else {
        STRATA_CHECK(piece.weights.scalar_type() == at::kFloat,
                     "adamw updates fp32 or fp64 masters");
        run<float>(piece, t);
      }
    }
  }

 private:
  template <class T>
  Constants<T> constants(const Piece& piece, int64_t t) const {
    const double bias1 = 1 - std::pow(c_.beta1, static_cast<double>(t));
    const double root_bias2 = std::sqrt(1 - std::pow(c_.beta2, static_cast<double>(t)));
    const bool pre = c_.eps_mode == "pre_bc", before = c_.decay_order == DecayOrder::Before;
    const double keep = 1 - piece.lr * piece.decay;
    return {.grad_scale = static_cast<T>(piece.grad_scale),
            .beta2 = static_cast<T>(c_.beta2),
            .one_minus_beta1 = static_cast<T>(1 - c_.beta1),
            .one_minus_beta2 = static_cast<T>(1 - c_.beta2),
            .step = static_cast<T>(piece.lr / bias1 * (pre ? root_bias2 : 1)),
            .inv_root_bias2 = static_cast<T>(pre ? 1 : 1 / root_bias2),
            .eps = static_cast<T>(c_.eps),
            .keep_before = static_cast<T>(before ? keep : 1),
            .keep_after = static_cast<T>(before ? 1 : keep)};
  }

  template <class T>
  void run(Piece& piece, int64_t t) const {
    constexpr int64_t kBlock = 1 << 13;  // stays in the cache until it is rounded
    const Constants<T> c = constants<T>(piece, t);
    const T* g = piece.grad.const_data_ptr<T>();
    T *m = piece.state[0].mutable_data_ptr<T>(), *v = piece.state[1].mutable_data_ptr<T>(),
      *w = piece.weights.mutable_data_ptr<T>();
    c10::BFloat16* rounded = nullptr;
    if (piece.rounded.defined() && piece.rounded.scalar_type() == at::kBFloat16)
      rounded = piece.rounded.mutable_data_ptr<c10::BFloat16>();
    at::parallel_for(0, piece.weights.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = std::min(kBlock, end - at);
        adamw_detail::update<T>(g + at, m + at, v + at, w + at, n, c);
        for (int64_t i = at; rounded != nullptr && i < at + n; ++i)
          rounded[i] = static_cast<c10::BFloat16>(static_cast<float>(w[i]));
      }
    });
    if (piece.rounded.defined() && rounded == nullptr) piece.rounded.copy_(piece.weights);
  }

  void composite(Piece& piece, int64_t t) const {
    const auto c = constants<double>(piece, t);
    const Tensor grad = piece.grad * c.grad_scale;
    Tensor &m = piece.state[0], &v = piece.state[1];
    m.lerp_(grad, c.one_minus_beta1);
    v.mul_(c.beta2).addcmul_(grad, grad, c.one_minus_beta2);
    piece.weights.mul_(c.keep_before)
        .addcdiv_(m, v.sqrt().mul_(c.inv_root_bias2).add_(c.eps), -c.step)
        .mul_(c.keep_after);
    if (piece.rounded.defined()) piece.rounded.copy_(piece.weights);
  }
  AdamWConfig c_;
};

}  // namespace adamw_detail

std::unique_ptr<UpdateRule> make_adamw(const AdamWConfig& config) {
  return std::make_unique<adamw_detail::AdamW>(config);
}

}  // namespace strata
