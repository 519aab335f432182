// Rows are read from memory once: the second and third sweep over a row find it in the first-level
// cache. Weight and bias gradients are sums over rows: a fixed block of rows adds into its own
// partial vector, partials are added in block order, so the bits do not depend on the threads.
#include "core/ops/norm_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::norm_cpu {

namespace norm_cpu_detail {

template <class S, class A>
struct Span {
  const S* dy = nullptr;
  const S* x = nullptr;
  int64_t dy_stride = 0, x_stride = 0;
  const A* weight = nullptr;
  const A* bias = nullptr;  // null: none
  A* mean = nullptr;        // null: root mean square norm
  A* rstd = nullptr;
  S* out = nullptr;      // y, or dx; null: not wanted
  A* dweight = nullptr;  // partial sums of this block; null: not wanted
  A* dbias = nullptr;
  int64_t rows = 0, width = 0;
  A eps = 0;
};

template <class A>
struct Forward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t D = span.width;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      S* y = span.out + r * D;
      A mean = 0;
      if (span.mean != nullptr) {
        mean = simd::sum_sweep<V>(
                   D, [&](int64_t i, auto lanes)
                          __attribute__((always_inline)) { return simd::load<V>(x + i, lanes); }) /
               static_cast<A>(D);
        span.mean[r] = mean;
      }
      const A squares = simd::sum_sweep<V>(
          D, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V centred =
                simd::within(static_cast<V>(simd::load<V>(x + i, lanes) - mean), lanes);
            return static_cast<V>(centred * centred);
          });
      const A rstd = A(1) / std::sqrt(squares / static_cast<A>(D) + span.eps);
      span.rstd[r] = rstd;
      if (span.bias != nullptr) {
        simd::sweep<V>(
            D, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V scaled = (simd::load<V>(x + i, lanes) - mean) * rstd *
                               simd::load<V>(span.weight + i, lanes);
              simd::store(y + i, static_cast<V>(scaled + simd::load<V>(span.bias + i, lanes)),
                          lanes);
            });
      } else {
        simd::sweep<V>(
            D, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V scaled = (simd::load<V>(x + i, lanes) - mean) * rstd *
                               simd::load<V>(span.weight + i, lanes);
              simd::store(y + i, scaled, lanes);
            });
      }
    }
  }
};

// g = dy weight, h = (x - mean) rstd:  dx = rstd (g - mean(g) - h mean(g h)), without mean(g) for
// the root mean square norm;  dweight += dy h;  dbias += dy.
template <class A>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t D = span.width;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      const S* dy = span.dy + r * span.dy_stride;
      const A mean = span.mean != nullptr ? span.mean[r] : A(0);
      const A rstd = span.rstd[r];
      if (span.out != nullptr) {
        S* dx = span.out + r * D;
        A g_mean = 0;
        if (span.mean != nullptr) {
          g_mean = simd::sum_sweep<V>(
                       D,
                       [&](int64_t i, auto lanes) __attribute__((always_inline)) {
                         return static_cast<V>(simd::load<V>(dy + i, lanes) *
                                               simd::load<V>(span.weight + i, lanes));
                       }) /
                   static_cast<A>(D);
        }
        const A gh_mean =
            simd::sum_sweep<V>(
                D,
                [&](int64_t i, auto lanes) __attribute__((always_inline)) {
                  const V g = simd::load<V>(dy + i, lanes) * simd::load<V>(span.weight + i, lanes);
                  return static_cast<V>(g * ((simd::load<V>(x + i, lanes) - mean) * rstd));
                }) /
            static_cast<A>(D);
        simd::sweep<V>(
            D, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V g = simd::load<V>(dy + i, lanes) * simd::load<V>(span.weight + i, lanes);
              const V h = (simd::load<V>(x + i, lanes) - mean) * rstd;
              simd::store(dx + i, static_cast<V>((g - g_mean - h * gh_mean) * rstd), lanes);
            });
      }
      if (span.dweight != nullptr) {
        simd::sweep<V>(
            D, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V h = (simd::load<V>(x + i, lanes) - mean) * rstd;
              const V sum =
                  simd::load<V>(span.dweight + i, lanes) + simd::load<V>(dy + i, lanes) * h;
              simd::store(span.dweight + i, sum, lanes);
            });
      }
      if (span.dbias != nullptr) {
        simd::sweep<V>(
            D, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V sum = simd::load<V>(span.dbias + i, lanes) + simd::load<V>(dy + i, lanes);
              simd::store(span.dbias + i, sum, lanes);
            });
      }
    }
  }
};

Tensor forward(const Tensor& input, const Tensor& weight, const Tensor& bias, double eps,
               Statistics& statistics, bool centre) {
  const Rows x = rows_of(input);
  Tensor y = at::empty(input.sizes(), input.options());
  const auto options = input.options().dtype(accumulate_dtype(input.scalar_type()));
  statistics.rstd = at::empty({x.count}, options);
  statistics.mean = centre ? at::empty({x.count}, options) : Tensor();
  with_types(input, [&]<class S, class A>(S, A) {
    for_blocks(x.count, rows_per_block(x.width), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.weight = weight.const_data_ptr<A>();
      span.bias = bias.defined() ? bias.const_data_ptr<A>() : nullptr;
      span.mean = centre ? statistics.mean.mutable_data_ptr<A>() + begin : nullptr;
      span.rstd = statistics.rstd.mutable_data_ptr<A>() + begin;
      span.out = y.mutable_data_ptr<S>() + begin * x.width;
      span.rows = end - begin;
      span.width = x.width;
      span.eps = static_cast<A>(eps);
      simd::run<Forward<A>>(span);
    });
  });
  return y;
}

Gradients backward(const Tensor& dy_in, const Tensor& x_in, const Tensor& weight,
                   const Statistics& statistics, Wanted wanted) {
  const Rows x = rows_of(x_in), dy = rows_of(dy_in);
  const int64_t D = x_in.size(-1);
  Gradients gradients;
  if (wanted.x) {
    gradients.x = at::empty(x_in.sizes(), x_in.options());
  }
  const int64_t block_rows = rows_per_partial(x.count, D);
  const int64_t blocks = (x.count + block_rows - 1) / block_rows;
  const Tensor dweight = wanted.weight ? at::zeros({blocks, D}, weight.options()) : Tensor();
  const Tensor dbias = wanted.bias ? at::zeros({blocks, D}, weight.options()) : Tensor();
  with_types(x_in, [&]<class S, class A>(S, A) {
    for_blocks(x.count, block_rows, [&](int64_t block, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.dy = dy.data<S>() + begin * dy.stride;
      span.dy_stride = dy.stride;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.weight = weight.const_data_ptr<A>();
      span.mean =
          statistics.mean.defined() ? statistics.mean.mutable_data_ptr<A>() + begin : nullptr;
      span.rstd = statistics.rstd.mutable_data_ptr<A>() + begin;
      span.out = wanted.x ? gradients.x.mutable_data_ptr<S>() + begin * D : nullptr;
      span.dweight = wanted.weight ? dweight.mutable_data_ptr<A>() + block * D : nullptr;
      span.dbias = wanted.bias ? dbias.mutable_data_ptr<A>() + block * D : nullptr;
      span.rows = end - begin;
      span.width = D;
      simd::run<Backward<A>>(span);
    });
  });
  if (wanted.weight) gradients.weight = sum_partials(dweight);
  if (wanted.bias) gradients.bias = sum_partials(dbias);
  return gradients;
}

}  // namespace norm_cpu_detail

Tensor rms_norm_forward(const Tensor& x, const Tensor& weight, double eps, Statistics& statistics) {
  return norm_cpu_detail::forward(x, weight, {}, eps, statistics, /*centre=*/false);
}

Gradients rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                            const Statistics& statistics, Wanted wanted) {
  wanted.bias = false;
  return norm_cpu_detail::backward(dy, x, weight, statistics, wanted);
}

Tensor layer_norm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                          Statistics& statistics) {
  return norm_cpu_detail::forward(x, weight, bias, eps, statistics, /*centre=*/true);
}

Gradients layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                              const Statistics& statistics, Wanted wanted) {
  return norm_cpu_detail::backward(dy, x, weight, statistics, wanted);
}

}  // namespace strata::ops::norm_cpu
