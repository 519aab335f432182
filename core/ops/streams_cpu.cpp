// One token at a time: its n streams stay in the first-level cache between the passes over them.
#include "core/ops/streams_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::streams_cpu {

namespace streams_cpu_detail {

template <class S, class A>
struct Span {
  const S *x = nullptr, *y = nullptr, *g = nullptr;  // of the span's first token
  const A *mix = nullptr, *weights = nullptr;        // weights: read or write
  S *out = nullptr, *dy = nullptr;
  A *dmix = nullptr, *dweights = nullptr;
  int64_t tokens = 0, streams = 0, width = 0;  // width: C
};

// sum_s weights[s step] x_s at element i, x_s `distance` apart
template <class V, class S, class A, class Lanes>
[[gnu::always_inline]] inline V weighted_sum(const S* x, int64_t distance, int64_t streams,
                                             const A* weights, int64_t step, int64_t i,
                                             Lanes lanes) {
  V sum = simd::load<V>(x + i, lanes) * weights[0];
  for (int64_t s = 1; s < streams; ++s) {
    sum += simd::load<V>(x + s * distance + i, lanes) * weights[s * step];
  }
  return sum;
}

// out = sum_s weights_s x_s
template <class A>
struct Read {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t n = span.streams, C = span.width;
    for (int64_t token = 0; token < span.tokens; ++token) {
      const S* x = span.x + token * n * C;
      const A* w = span.weights + token * n;
      simd::sweep<V>(
          C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            simd::store(span.out + token * C + i, weighted_sum<V>(x, C, n, w, 1, i, lanes), lanes);
          });
    }
  }
};

// out_s = weights_s g, dweights_s = <x_s, g>
template <class A>
struct ReadBackward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t n = span.streams, C = span.width;
    for (int64_t token = 0; token < span.tokens; ++token) {
      const S* g = span.g + token * C;
      for (int64_t s = 0; s < n; ++s) {
        const S* x = span.x + (token * n + s) * C;
        S* out = span.out + (token * n + s) * C;
        const A w = span.weights[token * n + s];
        span.dweights[token * n + s] = simd::sum_sweep<V>(
            C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V du = simd::load<V>(g + i, lanes);
              simd::store(out + i, static_cast<V>(du * w), lanes);
              return static_cast<V>(simd::load<V>(x + i, lanes) * du);
            });
      }
    }
  }
};

// out_t = sum_s mix[s, t] x_s + weights_t y
template <class A>
struct Write {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t n = span.streams, C = span.width;
    for (int64_t token = 0; token < span.tokens; ++token) {
      const S* x = span.x + token * n * C;
      const S* y = span.y + token * C;
      const A* mix = span.mix + token * n * n;
      for (int64_t t = 0; t < n; ++t) {
        const A w = span.weights[token * n + t];
        S* out = span.out + (token * n + t) * C;
        simd::sweep<V>(
            C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V sum = weighted_sum<V>(x, C, n, mix + t, n, i, lanes);
              simd::store(out + i, static_cast<V>(sum + simd::load<V>(y + i, lanes) * w), lanes);
            });
      }
    }
  }
};

// out_s = sum_t mix[s, t] g_t, dy = sum_t weights_t g_t, dmix[s, t] = <x_s, g_t>,
// dweights_t = <y, g_t>
template <class A>
struct WriteBackward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t n = span.streams, C = span.width;
    for (int64_t token = 0; token < span.tokens; ++token) {
      const S* x = span.x + token * n * C;
      const S* y = span.y + token * C;
      const S* g = span.g + token * n * C;
      const A* mix = span.mix + token * n * n;
      const A* w = span.weights + token * n;
      simd::sweep<V>(
          C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            simd::store(span.dy + token * C + i, weighted_sum<V>(g, C, n, w, 1, i, lanes), lanes);
          });
      for (int64_t t = 0; t < n; ++t) {
        span.dweights[token * n + t] = simd::sum_sweep<V>(
            C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              return static_cast<V>(simd::load<V>(y + i, lanes) *
                                    simd::load<V>(g + t * C + i, lanes));
            });
      }
      for (int64_t s = 0; s < n; ++s) {
        S* out = span.out + (token * n + s) * C;
        simd::sweep<V>(
            C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              simd::store(out + i, weighted_sum<V>(g, C, n, mix + s * n, 1, i, lanes), lanes);
            });
        for (int64_t t = 0; t < n; ++t) {
          span.dmix[(token * n + s) * n + t] = simd::sum_sweep<V>(
              C, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
                return static_cast<V>(simd::load<V>(x + s * C + i, lanes) *
                                      simd::load<V>(g + t * C + i, lanes));
              });
        }
      }
    }
  }
};

struct Tensors {
  Tensor x, y, g, mix, weights, out, dy, dmix, dweights;  // undefined: unused
};

template <template <class> class Kernel>
void run(const Tensors& t) {
  const int64_t n = t.weights.size(-1);
  const int64_t tokens = t.weights.numel() / n, C = t.x.size(-1) / n;
  with_types(t.x, [&]<class S, class A>(S, A) {
    const auto data = [](const Tensor& v, int64_t offset) -> const S* {
      return v.defined() ? v.const_data_ptr<S>() + offset : nullptr;
    };
    const auto wide = [](const Tensor& v, int64_t offset) -> A* {
      return v.defined() ? v.template mutable_data_ptr<A>() + offset : nullptr;
    };
    const auto out = [](const Tensor& v, int64_t offset) -> S* {
      return v.defined() ? v.template mutable_data_ptr<S>() + offset : nullptr;
    };
    for_blocks(tokens, rows_per_block(n * C), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.tokens = end - begin;
      span.streams = n;
      span.width = C;
      span.x = data(t.x, begin * n * C);
      span.y = data(t.y, begin * C);
      span.g = data(t.g, begin * (t.g.defined() ? t.g.size(-1) : 0));
      span.mix = t.mix.defined() ? t.mix.const_data_ptr<A>() + begin * n * n : nullptr;
      span.weights = t.weights.const_data_ptr<A>() + begin * n;
      span.out = out(t.out, begin * (t.out.defined() ? t.out.size(-1) : 0));
      span.dy = out(t.dy, begin * C);
      span.dmix = wide(t.dmix, begin * n * n);
      span.dweights = wide(t.dweights, begin * n);
      simd::run<Kernel<A>>(span);
    });
  });
}

Tensor one_stream_like(const Tensor& x, int64_t streams) {
  Shape shape = x.sizes().vec();
  shape.back() /= streams;
  return at::empty(shape, x.options());
}

}  // namespace streams_cpu_detail

Tensor read_forward(const Tensor& x, const Tensor& read) {
  using namespace streams_cpu_detail;
  Tensor u = one_stream_like(x, read.size(-1));
  run<Read>({.x = x, .weights = read, .out = u});
  return u;
}

void read_backward(const Tensor& du, const Tensor& x, const Tensor& read, Tensor& dx,
                   Tensor& dread) {
  using namespace streams_cpu_detail;
  dx = at::empty_like(x);
  dread = at::empty_like(read);
  run<ReadBackward>({.x = x, .g = du, .weights = read, .out = dx, .dweights = dread});
}

Tensor write_forward(const Tensor& x, const Tensor& y, const Tensor& mix, const Tensor& write) {
  using namespace streams_cpu_detail;
  Tensor out = at::empty_like(x);
  run<Write>({.x = x, .y = y, .mix = mix, .weights = write, .out = out});
  return out;
}

WriteGradients write_backward(const Tensor& g, const Tensor& x, const Tensor& y, const Tensor& mix,
                              const Tensor& write) {
  using namespace streams_cpu_detail;
  WriteGradients d{at::empty_like(x), at::empty_like(y), at::empty_like(mix),
                   at::empty_like(write)};
  run<WriteBackward>({.x = x,
                      .y = y,
                      .g = g,
                      .mix = mix,
                      .weights = write,
                      .out = d.x,
                      .dy = d.y,
                      .dmix = d.mix,
                      .dweights = d.write});
  return d;
}

}  // namespace strata::ops::streams_cpu
