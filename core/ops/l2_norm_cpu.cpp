#include "core/ops/l2_norm_cpu.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::l2_norm_cpu {

namespace l2_norm_cpu_detail {

template <class S, class A>
struct Span {
  const S* x;
  const S* dy;  // null: forward
  S* out;
  int64_t x_stride, dy_stride, rows, width;
  A scale;
};

// r = 1 / |x|, forward: y = scale r x, backward: dx = scale r (dy - x r^2 <x, dy>). The sum of
// squares is formed again instead of kept: a row is in the first-level cache.
template <class A>
struct Kernel {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t row = 0; row < span.rows; ++row) {
      const S* x = span.x + row * span.x_stride;
      S* out = span.out + row * span.width;
      const A squares = simd::sum_sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V value = simd::load<V>(x + i, lanes);
            return static_cast<V>(value * value);
          });
      const A r = A(1) / std::sqrt(squares + static_cast<A>(kEps));
      const A factor = span.scale * r;
      if (span.dy == nullptr) {
        simd::sweep<V>(
            span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              simd::store(out + i, static_cast<V>(simd::load<V>(x + i, lanes) * factor), lanes);
            });
        continue;
      }
      const S* dy = span.dy + row * span.dy_stride;
      const A along =
          r * r *
          simd::sum_sweep<V>(
              span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
                return static_cast<V>(simd::load<V>(x + i, lanes) * simd::load<V>(dy + i, lanes));
              });
      simd::sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V across = simd::load<V>(dy + i, lanes) - simd::load<V>(x + i, lanes) * along;
            simd::store(out + i, static_cast<V>(across * factor), lanes);
          });
    }
  }
};

Tensor apply(const Tensor& x_in, const Tensor* dy_in, double scale) {
  const Rows x = rows_of(x_in);
  const Rows dy = dy_in != nullptr ? rows_of(*dy_in) : Rows{};
  const Tensor out = at::empty(x_in.sizes(), x_in.options());
  with_types(x_in, [&]<class S, class A>(S, A) {
    for_blocks(x.count, rows_per_block(x.width), [&](int64_t, int64_t begin, int64_t end) {
      simd::run<Kernel<A>>(Span<S, A>{x.data<S>() + begin * x.stride,
                                      dy_in != nullptr ? dy.data<S>() + begin * dy.stride : nullptr,
                                      out.mutable_data_ptr<S>() + begin * x.width, x.stride,
                                      dy.stride, end - begin, x.width, static_cast<A>(scale)});
    });
  });
  return out;
}

}  // namespace l2_norm_cpu_detail

Tensor forward(const Tensor& x, double scale) {
  return l2_norm_cpu_detail::apply(x, nullptr, scale);
}
Tensor backward(const Tensor& dy, const Tensor& x, double scale) {
  return l2_norm_cpu_detail::apply(x, &dy, scale);
}

}  // namespace strata::ops::l2_norm_cpu
