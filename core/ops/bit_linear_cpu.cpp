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
  S* out = nullptr;         // q or dx
  int8_t* codes = nullptr;  // q as integers
  A* dgain = nullptr;       // partial sums of this block
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
      const A rstd = A(1) / std::sqrt(span.squares[r] / span.width + span.eps);
      const A size = rstd * span.largest[r];
      const bool small = size < kSmallest;
      const A factor = small ? rstd * (span.levels / kSmallest) : span.levels / span.largest[r];
      span.rstd[r] = rstd;
      span.scale[r] = (small ? kSmallest : size) / span.levels;
      const auto sweep_to = [&](auto* q, auto round) __attribute__((always_inline)) {
        simd::sweep<V>(
            span.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              const V v =
                  simd::load<V>(x + i, lanes) * simd::load<V>(span.gain + i, lanes) * factor;
              simd::store(q + i, static_cast<V>(round(v)), lanes);
            });
      };
      const auto sweep = [&](auto round) __attribute__((always_inline)) {
        if (span.codes != nullptr) {
          sweep_to(span.codes + r * span.features, round);
        } else {
          sweep_to(span.out + r * span.features, round);
        }
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

// to = from factor common, rows of `features`.
template <class From, class S, class A>
struct Scaling {
  const From* from = nullptr;
  S* to = nullptr;
  const A* factor = nullptr;
  A common = 0;
  int64_t rows = 0, features = 0;
};
struct ScaleRows {
  template <int Bytes, class From, class S, class A>
  [[gnu::always_inline]] static inline void run(const Scaling<From, S, A>& p) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < p.rows; ++r) {
      const From* from = p.from + r * p.features;
      S* to = p.to + r * p.features;
      const A factor = p.factor[r] * p.common;
      simd::sweep<V>(
          p.features, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            simd::store(to + i, static_cast<V>(simd::load<V>(from + i, lanes) * factor), lanes);
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
                 const Tensor& largest_N, int64_t width, const BitOptions& options, bool int8) {
  const Rows x = rows_of(x_NI);
  const auto form = int8 ? x_NI.options().dtype(at::kChar) : x_NI.options();
  BitRows out{at::empty(x_NI.sizes(), form), at::empty({x.count}, wide(x_NI)),
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
      if (int8) {
        span.codes = out.q_NI.mutable_data_ptr<int8_t>() + begin * x.width;
      } else {
        span.out = out.q_NI.mutable_data_ptr<S>() + begin * x.width;
      }
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

Tensor scaled_rows(const Tensor& rows_NO, const Tensor& factor_N, double common,
                   at::ScalarType dtype) {
  const Tensor from = rows_NO.contiguous();
  const int64_t count = from.size(0), width = from.size(1);
  const Tensor to = at::empty({count, width}, from.options().dtype(dtype));
  with_types(to, [&]<class S, class A>(S, A) {
    const auto scale = [&]<class From>(const From* begin_of_rows) {
      for_blocks(count, rows_per_block(width), [&](int64_t, int64_t begin, int64_t end) {
        simd::run<ScaleRows>(Scaling<From, S, A>{
            begin_of_rows + begin * width, to.mutable_data_ptr<S>() + begin * width,
            factor_N.const_data_ptr<A>() + begin, static_cast<A>(common), end - begin, width});
      });
    };
    if (from.scalar_type() == at::kInt) {
      scale(from.const_data_ptr<int32_t>());
    } else {
      scale(from.const_data_ptr<S>());
    }
  });
  return to;
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

}  // namespace strata::ops::bit_linear_cpu
