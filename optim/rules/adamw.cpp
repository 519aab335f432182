#include "optim/rules/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <c10/util/BFloat16.h>

#include <cmath>
#include <type_traits>

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/ops/simd.h"

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

// n elements; rounded may be null.
template <class T>
struct Update {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const T* g, T* m, T* v, T* w,
                                                c10::BFloat16* rounded, int64_t n,
                                                const Constants<T>& constants) {
    namespace simd = ops::simd;
    using V = simd::Vec<T, Bytes>;
    const Constants<T> c = constants;  // the compiler need not fear that m, v or w changes them
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const V gi = simd::load<V>(g + i, lanes) * c.grad_scale;
          V mi = simd::load<V>(m + i, lanes), vi = simd::load<V>(v + i, lanes);
          mi += (gi - mi) * c.one_minus_beta1;
          vi = vi * c.beta2 + gi * gi * c.one_minus_beta2;
          simd::store(m + i, mi, lanes);
          simd::store(v + i, vi, lanes);
          const V step = mi / (simd::sqrt(vi) * c.inv_root_bias2 + c.eps) * c.step;
          const V wi = (simd::load<V>(w + i, lanes) * c.keep_before - step) * c.keep_after;
          simd::store(w + i, wi, lanes);
          if constexpr (std::is_same_v<T, float>) {
            if (rounded != nullptr) simd::store(rounded + i, wi, lanes);
          }
        });
  }
};

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
    const Constants<T> c = constants<T>(piece, t);
    const T* g = piece.grad.const_data_ptr<T>();
    T *m = piece.state[0].mutable_data_ptr<T>(), *v = piece.state[1].mutable_data_ptr<T>(),
      *w = piece.weights.mutable_data_ptr<T>();
    c10::BFloat16* rounded = nullptr;
    if (std::is_same_v<T, float> && piece.rounded.defined() &&
        piece.rounded.scalar_type() == at::kBFloat16)
      rounded = piece.rounded.mutable_data_ptr<c10::BFloat16>();
    at::parallel_for(0, piece.weights.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
      ops::simd::run<Update<T>>(g + begin, m + begin, v + begin, w + begin,
                                rounded == nullptr ? nullptr : rounded + begin, end - begin, c);
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
