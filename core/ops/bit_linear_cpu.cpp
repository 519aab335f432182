// Rows are read once from memory; further sweeps find them in the first-level cache. Sums over rows
// (dgain) go through partial vectors of fixed blocks of rows, so that bits do not depend on
// threads.
#include "core/ops/bit_linear_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::bit_linear_cpu {

namespace bit_linear_cpu_detail {

template <class S, class A>
struct Span {
  const S* x = nullptr;
  const S* dy = nullptr;
  int64_t x_stride = 0, dy_stride = 0;
  const A* gain = nullptr;
  A* squares = nullptr;
  A* largest = nullptr;
  A* scale = nullptr;
  A* rstd = nullptr;
  A* dots = nullptr;
  S* out = nullptr;    // q or dx
  A* dgain = nullptr;  // partial sums of this block
  int64_t rows = 0, features = 0;
  A width = 0, eps = 0, levels = 0, beta = 0;
  ActRound round = ActRound::HalfEven;
};

template <class V>
[[gnu::always_inline]] inline V absolute(const V& v) {
  return v < V{} ? -v : v;
}

// To the nearest integer, ties to the even one: adding 1.5 * 2^(digits - 1) leaves no fraction.
template <class V>
[[gnu::always_inline]] inline V nearest(const V& v) {
  using A = simd::Scalar<V>;
  constexpr A kShift = sizeof(A) == 8 ? A(6755399441055744.0) : A(12582912.0);
  const V shifted = v + kShift;
  return shifted - kShift;
}

template <class A>
struct Statistics {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      V top{};
      span.squares[r] = simd::sum_sweep<V>(
          span.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V v = simd::load<V>(x + i, lanes);
            top = simd::max(top, absolute(static_cast<V>(v * simd::load<V>(span.gain + i, lanes))));
            return static_cast<V>(v * v);
          });
      span.largest[r] = simd::max_of(top);
    }
  }
};

template <class A>
struct Quantise {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    constexpr A kSmallest = A(1e-5);
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      S* q = span.out + r * span.features;
      const A rstd = A(1) / std::sqrt(span.squares[r] / span.width + span.eps);
      const A size = rstd * span.largest[r];
      const bool small = size < kSmallest;
      const A factor = small ? rstd * (span.levels / kSmallest) : span.levels / span.largest[r];
      span.rstd[r] = rstd;
      span.scale[r] = (small ? kSmallest : size) / span.levels;
      const auto sweep = [&](auto round) __attribute__((always_inline)) {
        simd::sweep<V>(
            span.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V v =
                  simd::load<V>(x + i, lanes) * simd::load<V>(span.gain + i, lanes) * factor;
              simd::store(q + i, static_cast<V>(round(v)), lanes);
            });
      };
      if (span.round == ActRound::HalfEven) {
        sweep([](const V& v) __attribute__((always_inline)) { return nearest(v); });
      } else if (span.round == ActRound::HalfAway) {
        sweep([](const V& v) __attribute__((always_inline)) {
          const V even = nearest(v), rest = v - even;
          // A half is exact in both formats, and so is its sum with v.
          const V away = v < V{} ? v - A(0.5) : v + A(0.5);
          return absolute(rest) == simd::broadcast<V>(A(0.5)) ? away : even;
        });
      } else {
        sweep([](const V& v) __attribute__((always_inline)) { return v; });
      }
    }
  }
};

template <class A>
struct ScaleRows {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      S* row = span.out + r * span.features;
      const A factor = span.scale[r] * span.beta;
      simd::sweep<V>(
          span.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            simd::store(row + i, static_cast<V>(simd::load<V>(row + i, lanes) * factor), lanes);
          });
    }
  }
};

template <class A>
struct Dots {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      const S* dy = span.dy + r * span.dy_stride;
      const A sum = simd::sum_sweep<V>(
          span.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            return static_cast<V>(simd::load<V>(dy + i, lanes) *
                                  simd::load<V>(span.gain + i, lanes) *
                                  simd::load<V>(x + i, lanes));
          });
      span.dots[r] = sum * (span.rstd[r] * span.beta);
    }
  }
};

// dx = rstd (gain beta dy - x rstd mean);  dgain += beta dy x rstd
template <class A>
struct NormBackward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* x = span.x + r * span.x_stride;
      const S* dy = span.dy + r * span.dy_stride;
      S* dx = span.out + r * span.features;
      const A rstd = span.rstd[r], mean = span.dots[r] / span.width;
      simd::sweep<V>(
          span.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V g = simd::load<V>(dy + i, lanes) * span.beta;
            const V normal = simd::load<V>(x + i, lanes) * rstd;
            const V sum = simd::load<V>(span.dgain + i, lanes) + g * normal;
            const V own = g * simd::load<V>(span.gain + i, lanes) - normal * mean;
            simd::store(dx + i, static_cast<V>(own * rstd), lanes);
            simd::store(span.dgain + i, sum, lanes);
          });
    }
  }
};

// [N, I] x [O, I] -> [N, O], four outputs at a time; products of 16-bit numbers are added in pairs.
struct Int8Product {
  const int8_t* q = nullptr;
  const int8_t* t = nullptr;
  int32_t* out = nullptr;
  int64_t rows = 0, outputs = 0, features = 0;
};
struct Int8Kernel {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const Int8Product& p) {
    for (int64_t r = 0; r < p.rows; ++r) {
      const int8_t* q = p.q + r * p.features;
      int64_t o = 0;
      for (; o + 4 <= p.outputs; o += 4) {
        const int8_t* t = p.t + o * p.features;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int64_t i = 0; i < p.features; ++i) {
          const int32_t v = q[i];
          s0 += v * t[i];
          s1 += v * t[i + p.features];
          s2 += v * t[i + 2 * p.features];
          s3 += v * t[i + 3 * p.features];
        }
        int32_t* out = p.out + r * p.outputs + o;
        out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
      }
      for (; o < p.outputs; ++o) {
        const int8_t* t = p.t + o * p.features;
        int32_t s = 0;
        for (int64_t i = 0; i < p.features; ++i) s += static_cast<int32_t>(q[i]) * t[i];
        p.out[r * p.outputs + o] = s;
      }
    }
  }
};

at::TensorOptions wide(const Tensor& x) {
  return x.options().dtype(accumulate_dtype(x.scalar_type()));
}

}  // namespace bit_linear_cpu_detail

using namespace bit_linear_cpu_detail;

void row_statistics(const Tensor& x_NI, const Tensor& gain_I, Tensor& squares_N,
                    Tensor& largest_N) {
  const Rows x = rows_of(x_NI);
  squares_N = at::empty({x.count}, wide(x_NI));
  largest_N = at::empty({x.count}, wide(x_NI));
  with_types(x_NI, [&]<class S, class A>(S, A) {
    for_blocks(x.count, rows_per_block(x.width), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.gain = gain_I.const_data_ptr<A>();
      span.squares = squares_N.mutable_data_ptr<A>() + begin;
      span.largest = largest_N.mutable_data_ptr<A>() + begin;
      span.rows = end - begin;
      span.features = x.width;
      simd::run<Statistics<A>>(span);
    });
  });
}

BitRows quantise(const Tensor& x_NI, const Tensor& gain_I, const Tensor& squares_N,
                 const Tensor& largest_N, int64_t width, const BitOptions& options) {
  const Rows x = rows_of(x_NI);
  BitRows out{at::empty(x_NI.sizes(), x_NI.options()), at::empty({x.count}, wide(x_NI)),
              at::empty({x.count}, wide(x_NI))};
  with_types(x_NI, [&]<class S, class A>(S, A) {
    for_blocks(x.count, rows_per_block(x.width), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.gain = gain_I.const_data_ptr<A>();
      span.squares = squares_N.mutable_data_ptr<A>() + begin;
      span.largest = largest_N.mutable_data_ptr<A>() + begin;
      span.scale = out.scale_N.mutable_data_ptr<A>() + begin;
      span.rstd = out.rstd_N.mutable_data_ptr<A>() + begin;
      span.out = out.q_NI.mutable_data_ptr<S>() + begin * x.width;
      span.rows = end - begin;
      span.features = x.width;
      span.width = static_cast<A>(width);
      span.eps = static_cast<A>(options.eps);
      span.levels = static_cast<A>((1 << (options.bits - 1)) - 1);
      span.round = options.round;
      simd::run<Quantise<A>>(span);
    });
  });
  return out;
}

void scale_rows_(const Tensor& rows_NO, const Tensor& factor_N, double common) {
  const int64_t count = rows_NO.size(0), width = rows_NO.size(1);
  with_types(rows_NO, [&]<class S, class A>(S, A) {
    for_blocks(count, rows_per_block(width), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.out = rows_NO.mutable_data_ptr<S>() + begin * width;
      span.scale = factor_N.mutable_data_ptr<A>() + begin;
      span.rows = end - begin;
      span.features = width;
      span.beta = static_cast<A>(common);
      simd::run<ScaleRows<A>>(span);
    });
  });
}

Tensor norm_dots(const Tensor& dy_NI, const Tensor& x_NI, const Tensor& gain_I,
                 const Tensor& rstd_N, double beta) {
  const Rows x = rows_of(x_NI), dy = rows_of(dy_NI);
  Tensor dots = at::empty({x.count}, wide(x_NI));
  with_types(x_NI, [&]<class S, class A>(S, A) {
    for_blocks(x.count, rows_per_block(x.width), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.dy = dy.data<S>() + begin * dy.stride;
      span.dy_stride = dy.stride;
      span.gain = gain_I.const_data_ptr<A>();
      span.rstd = rstd_N.mutable_data_ptr<A>() + begin;
      span.dots = dots.mutable_data_ptr<A>() + begin;
      span.rows = end - begin;
      span.features = x.width;
      span.beta = static_cast<A>(beta);
      simd::run<Dots<A>>(span);
    });
  });
  return dots;
}

BitGradients norm_backward(const Tensor& dy_NI, const Tensor& x_NI, const Tensor& gain_I,
                           const Tensor& rstd_N, const Tensor& dots_N, int64_t width, double beta) {
  const Rows x = rows_of(x_NI), dy = rows_of(dy_NI);
  const int64_t block_rows = rows_per_partial(x.count, x.width);
  const int64_t blocks = (x.count + block_rows - 1) / block_rows;
  const Tensor partials = at::zeros({blocks, x.width}, wide(x_NI));
  BitGradients out{at::empty(x_NI.sizes(), x_NI.options()), {}};
  with_types(x_NI, [&]<class S, class A>(S, A) {
    for_blocks(x.count, block_rows, [&](int64_t block, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.x = x.data<S>() + begin * x.stride;
      span.x_stride = x.stride;
      span.dy = dy.data<S>() + begin * dy.stride;
      span.dy_stride = dy.stride;
      span.gain = gain_I.const_data_ptr<A>();
      span.rstd = rstd_N.mutable_data_ptr<A>() + begin;
      span.dots = dots_N.mutable_data_ptr<A>() + begin;
      span.out = out.x.mutable_data_ptr<S>() + begin * x.width;
      span.dgain = partials.mutable_data_ptr<A>() + block * x.width;
      span.rows = end - begin;
      span.features = x.width;
      span.width = static_cast<A>(width);
      span.beta = static_cast<A>(beta);
      simd::run<NormBackward<A>>(span);
    });
  });
  out.gain = sum_partials(partials);
  return out;
}

Tensor int8_product(const Tensor& q_NI, const Tensor& codes_OI) {
  const Tensor q = q_NI.contiguous(), t = codes_OI.contiguous();
  const int64_t N = q.size(0), I = q.size(1), O = t.size(0);
  Tensor out = at::empty({N, O}, q.options().dtype(at::kInt));
  for_blocks(N, std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, O)),
             [&](int64_t, int64_t begin, int64_t end) {
               Int8Product p{q.const_data_ptr<int8_t>() + begin * I,
                             t.const_data_ptr<int8_t>(),
                             out.mutable_data_ptr<int32_t>() + begin * O,
                             end - begin,
                             O,
                             I};
               simd::run<Int8Kernel>(p);
             });
  return out;
}

}  // namespace strata::ops::bit_linear_cpu
