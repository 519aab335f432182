#include "optim/matrix/passes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

#include <type_traits>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata {
namespace passes_detail {

namespace simd = ops::simd;

bool dense(const Tensor& x) { return x.is_cpu() && x.is_contiguous(); }
bool is(const Tensor& x, at::ScalarType type) { return x.scalar_type() == type; }

template <class T>
struct UpdateMomentum {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(T* m, const T* g, T* out, int64_t n, T mu,
                                                T fresh) {
    using V = simd::Vec<T, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const V gi = simd::load<V>(g + i, lanes) * fresh;
          const V mi = simd::load<V>(m + i, lanes) * mu + gi;
          simd::store(m + i, mi, lanes);
          if (out != nullptr) simd::store(out + i, mi * mu + gi, lanes);
        });
  }
};

struct Scale {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const float* x, c10::BFloat16* to, int64_t n,
                                                float scale) {
    using V = simd::Vec<float, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          simd::store(to + i, simd::load<V>(x + i, lanes) * scale, lanes);
        });
  }
};

// T: of weights, D: of the direction.
template <class T, class D>
struct Move {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(T* w, const D* d, c10::BFloat16* rounded, int64_t n,
                                                T step, T before, T after) {
    using V = simd::Vec<T, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const V wi =
              (simd::load<V>(w + i, lanes) * before - simd::load<V>(d + i, lanes) * step) * after;
          simd::store(w + i, wi, lanes);
          if constexpr (std::is_same_v<T, float>) {
            if (rounded != nullptr) simd::store(rounded + i, wi, lanes);
          }
        });
  }
};

template <class T>
void update_momentum(Tensor& m, const Tensor& g, T* out, double mu, double fresh) {
  T* to = m.mutable_data_ptr<T>();
  const T* from = g.const_data_ptr<T>();
  ops::for_blocks(m.numel(), 4 * ops::kBlockElements, [&](int64_t, int64_t begin, int64_t end) {
    simd::run<UpdateMomentum<T>>(to + begin, from + begin, out == nullptr ? nullptr : out + begin,
                                 end - begin, static_cast<T>(mu), static_cast<T>(fresh));
  });
}

template <class T, class D>
void move(Tensor& w, const Tensor& d, double step, double before, double after,
          c10::BFloat16* rounded) {
  T* to = w.mutable_data_ptr<T>();
  const D* from = d.const_data_ptr<D>();
  ops::for_blocks(w.numel(), 4 * ops::kBlockElements, [&](int64_t, int64_t begin, int64_t end) {
    simd::run<Move<T, D>>(to + begin, from + begin, rounded == nullptr ? nullptr : rounded + begin,
                          end - begin, static_cast<T>(step), static_cast<T>(before),
                          static_cast<T>(after));
  });
}

}  // namespace passes_detail

Tensor update_momentum(Tensor& m, const Tensor& g, double mu, double fresh, bool nesterov) {
  namespace d = passes_detail;
  const bool one_pass = d::dense(m) && d::dense(g) && g.scalar_type() == m.scalar_type() &&
                        (d::is(m, at::kFloat) || d::is(m, at::kDouble));
  if (!one_pass) {
    m.mul_(mu).add_(g, fresh);
    return nesterov ? (m * mu).add_(g, fresh) : m;
  }
  Tensor out = nesterov ? at::empty_like(m) : m;
  if (d::is(m, at::kFloat)) {
    d::update_momentum<float>(m, g, nesterov ? out.mutable_data_ptr<float>() : nullptr, mu, fresh);
  } else {
    d::update_momentum<double>(m, g, nesterov ? out.mutable_data_ptr<double>() : nullptr, mu,
                               fresh);
  }
  return out;
}

Tensor scaled_to(const Tensor& x, double scale, at::ScalarType type) {
  namespace d = passes_detail;
  if (!d::dense(x) || !d::is(x, at::kFloat) || type != at::kBFloat16)
    return (x * scale).to(type).contiguous();
  const Tensor out = at::empty(x.sizes(), x.options().dtype(type));
  auto* to = out.mutable_data_ptr<c10::BFloat16>();
  const float* from = x.const_data_ptr<float>();
  ops::for_blocks(x.numel(), 4 * ops::kBlockElements, [&](int64_t, int64_t begin, int64_t end) {
    d::simd::run<d::Scale>(from + begin, to + begin, end - begin, static_cast<float>(scale));
  });
  return out;
}

void move_weights(Tensor& w, const Tensor& d, double step, double keep_before, double keep_after,
                  const Tensor& rounded) {
  namespace pd = passes_detail;
  const bool one_type = d.scalar_type() == w.scalar_type();
  const bool bf16_rounded = rounded.defined() && pd::is(rounded, at::kBFloat16) &&
                            pd::dense(rounded) && pd::is(w, at::kFloat);
  auto* copy = bf16_rounded ? rounded.mutable_data_ptr<c10::BFloat16>() : nullptr;
  if (pd::dense(w) && pd::dense(d) && pd::is(w, at::kFloat) && one_type) {
    pd::move<float, float>(w, d, step, keep_before, keep_after, copy);
  } else if (pd::dense(w) && pd::dense(d) && pd::is(w, at::kFloat) && pd::is(d, at::kBFloat16)) {
    pd::move<float, c10::BFloat16>(w, d, step, keep_before, keep_after, copy);
  } else if (pd::dense(w) && pd::dense(d) && pd::is(w, at::kDouble) && one_type) {
    pd::move<double, double>(w, d, step, keep_before, keep_after, nullptr);
  } else {
    copy = nullptr;
    if (keep_before != 1) w.mul_(keep_before);
    w.add_(d, -step);
    if (keep_after != 1) w.mul_(keep_after);
  }
  if (rounded.defined() && copy == nullptr) Tensor(rounded).copy_(w);
}

}  // namespace strata
