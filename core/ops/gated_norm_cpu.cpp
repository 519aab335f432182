// One row at a time; the gate is computed once per direction. The weight's gradient is a sum over
// rows: a fixed block of rows adds into its own partial vector and partials are added in block
// order, so the bits do not depend on the threads.
#include "core/ops/gated_norm_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::gated_norm_cpu {

namespace gated_norm_cpu_detail {

template <class S, class A>
struct Span {
  const S* dy = nullptr;
  const S* x = nullptr;
  const S* z = nullptr;
  int64_t dy_stride = 0, x_stride = 0, z_stride = 0;
  const A* weight = nullptr;
  A* rstd = nullptr;
  S* out = nullptr;  // y, or dx
  S* dz = nullptr;
  A* dweight = nullptr;  // partial sums of this block; null: not wanted
  A* scratch = nullptr;  // one row
  int64_t rows = 0, width = 0;
  A eps = 0;
};

template <class V>
[[gnu::always_inline]] inline V sigmoid(const V& x) {
  return simd::Scalar<V>(1) / (simd::Scalar<V>(1) + simd::exp(static_cast<V>(-x)));
}

template <class A>
struct Forward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      const S* z = span.z + r * span.z_stride;
      S* y = span.out + r * span.width;
      const A squares = simd::sum_sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V value = simd::load<V>(x + i, lanes);
            return static_cast<V>(value * value);
          });
      const A rstd = A(1) / std::sqrt(squares / static_cast<A>(span.width) + span.eps);
      span.rstd[r] = rstd;
      simd::sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V gate = simd::load<V>(z + i, lanes);
            const V scaled =
                simd::load<V>(x + i, lanes) * rstd * simd::load<V>(span.weight + i, lanes);
            simd::store(y + i, static_cast<V>(scaled * (gate * sigmoid(gate))), lanes);
          });
    }
  }
};

// h = x rstd, u = dy silu(z), g = u weight:  dx = rstd (g - h mean(g h));  dweight += u h;
// dz = dy h weight silu'(z).
template <class A>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t width = span.width;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      const S* z = span.z + r * span.z_stride;
      const S* dy = span.dy + r * span.dy_stride;
      S* dx = span.out + r * width;
      S* dz = span.dz + r * width;
      A* u_row = span.scratch;
      const A rstd = span.rstd[r];
      const A gh_mean =
          simd::sum_sweep<V>(
              width,
              [&](int64_t i, auto lanes) __attribute__((always_inline)) {
                const V gate = simd::load<V>(z + i, lanes);
                const V s = sigmoid(gate);
                const V grad = simd::load<V>(dy + i, lanes);
                const V h = simd::load<V>(x + i, lanes) * rstd;
                const V hw = h * simd::load<V>(span.weight + i, lanes);
                const V u = grad * (gate * s);
                simd::store(dz + i, static_cast<V>(grad * hw * (s + gate * s * (A(1) - s))), lanes);
                simd::store(u_row + i, u, lanes);
                return static_cast<V>(u * hw);
              }) /
          static_cast<A>(width);
      simd::sweep<V>(
          width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V u = simd::load<V>(u_row + i, lanes);
            const V h = simd::load<V>(x + i, lanes) * rstd;
            const V g = u * simd::load<V>(span.weight + i, lanes);
            simd::store(dx + i, static_cast<V>((g - h * gh_mean) * rstd), lanes);
          });
      if (span.dweight != nullptr) {
        simd::sweep<V>(
            width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V h = simd::load<V>(x + i, lanes) * rstd;
              const V sum =
                  simd::load<V>(span.dweight + i, lanes) + simd::load<V>(u_row + i, lanes) * h;
              simd::store(span.dweight + i, sum, lanes);
            });
      }
    }
  }
};

}  // namespace gated_norm_cpu_detail

Tensor forward(const Tensor& x_in, const Tensor& z_in, const Tensor& weight, double eps,
               Tensor& rstd) {
  using namespace gated_norm_cpu_detail;
  const Rows x = rows_of(x_in), z = rows_of(z_in);
  Tensor y = at::empty(x_in.sizes(), x_in.options());
  rstd = at::empty({x.count}, weight.options());
  with_types(x_in, [&]<class S, class A>(S, A) {
    for_blocks(x.count, rows_per_block(x.width), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.z = z.data<S>() + begin * z.stride;
      span.z_stride = z.stride;
      span.weight = weight.const_data_ptr<A>();
      span.rstd = rstd.mutable_data_ptr<A>() + begin;
      span.out = y.mutable_data_ptr<S>() + begin * x.width;
      span.rows = end - begin;
      span.width = x.width;
      span.eps = static_cast<A>(eps);
      simd::run<Forward<A>>(span);
    });
  });
  return y;
}

Gradients backward(const Tensor& dy_in, const Tensor& x_in, const Tensor& z_in,
                   const Tensor& weight, const Tensor& rstd, bool want_weight) {
  using namespace gated_norm_cpu_detail;
  const Rows x = rows_of(x_in), z = rows_of(z_in), dy = rows_of(dy_in);
  const int64_t width = x.width;
  Gradients gradients;
  gradients.x = at::empty(x_in.sizes(), x_in.options());
  gradients.z = at::empty(z_in.sizes(), z_in.options());
  const int64_t block_rows = rows_per_partial(x.count, width);
  const int64_t blocks = (x.count + block_rows - 1) / block_rows;
  const Tensor partials = want_weight ? at::zeros({blocks, width}, weight.options()) : Tensor();
  with_types(x_in, [&]<class S, class A>(S, A) {
    for_blocks(x.count, block_rows, [&](int64_t block, int64_t begin, int64_t end) {
      std::vector<A> scratch(static_cast<size_t>(width));
      Span<S, A> span;
      span.dy = dy.data<S>() + begin * dy.stride;
      span.dy_stride = dy.stride;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.z = z.data<S>() + begin * z.stride;
      span.z_stride = z.stride;
      span.weight = weight.const_data_ptr<A>();
      span.rstd = rstd.mutable_data_ptr<A>() + begin;
      span.out = gradients.x.mutable_data_ptr<S>() + begin * width;
      span.dz = gradients.z.mutable_data_ptr<S>() + begin * width;
      span.dweight = want_weight ? partials.mutable_data_ptr<A>() + block * width : nullptr;
      span.scratch = scratch.data();
      span.rows = end - begin;
      span.width = width;
      simd::run<Backward<A>>(span);
    });
  });
  if (want_weight) gradients.weight = sum_partials(partials);
  return gradients;
}

}  // namespace strata::ops::gated_norm_cpu
