// Angles: position p = 64 a + b, and cos, sin of p f follow in fp64 from those of 64 a f and b f by
// the addition theorem, so a call evaluates about sqrt-many of them. Both parts are rounded like
// any product p f, and the value of a position does not depend on which other positions the call
// holds. A token's cos and sin are used for all heads.
#include "core/ops/rope_cpu.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::rope_cpu {

namespace rope_cpu_detail {

constexpr int64_t kFine = 64;

struct CosSin {
  std::vector<double> cos, sin;  // [rows, half]
  CosSin(int64_t rows, int64_t half) : cos(static_cast<size_t>(rows * half)), sin(cos.size()) {}
  void set(int64_t row, double position, const std::vector<double>& inv_freq, double magnitude) {
    const auto half = static_cast<int64_t>(inv_freq.size());
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * inv_freq[static_cast<size_t>(i)];
      cos[static_cast<size_t>(row * half + i)] = std::cos(angle) * magnitude;
      sin[static_cast<size_t>(row * half + i)] = std::sin(angle) * magnitude;
    }
  }
};

template <class S, class A>
struct Span {
  const S* x = nullptr;  // of one token
  int64_t head_stride = 0;
  S* y = nullptr;  // [H, K]
  int64_t heads = 0, width = 0, half = 0;
  const double *coarse_cos = nullptr, *coarse_sin = nullptr, *fine_cos = nullptr,
               *fine_sin = nullptr;
  double sign = 1;
  A *cos = nullptr, *sin = nullptr;  // [half] room for this token's values
};

template <class A>
struct Rotate {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    using D = simd::Vec<double, Bytes>;
    simd::sweep<D>(
        span.half, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const D ca = simd::load<D>(span.coarse_cos + i, lanes),
                  sa = simd::load<D>(span.coarse_sin + i, lanes);
          const D cb = simd::load<D>(span.fine_cos + i, lanes),
                  sb = simd::load<D>(span.fine_sin + i, lanes);
          using Narrow = typename simd::VectorOf<A, simd::kLanes<D>>::type;
          simd::store(span.cos + i,
                      __builtin_convertvector(static_cast<D>(ca * cb - sa * sb), Narrow), lanes);
          simd::store(
              span.sin + i,
              __builtin_convertvector(static_cast<D>((sa * cb + ca * sb) * span.sign), Narrow),
              lanes);
        });
    for (int64_t h = 0; h < span.heads; ++h) {
      const S* x = span.x + h * span.head_stride;
      S* y = span.y + h * span.width;
      simd::sweep<V>(
          span.half, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V cos = simd::load<V>(span.cos + i, lanes),
                    sin = simd::load<V>(span.sin + i, lanes);
            const V first = simd::load<V>(x + i, lanes),
                    second = simd::load<V>(x + span.half + i, lanes);
            simd::store(y + i, static_cast<V>(first * cos - second * sin), lanes);
            simd::store(y + span.half + i, static_cast<V>(second * cos + first * sin), lanes);
          });
      for (int64_t i = 2 * span.half; i < span.width; ++i) {
        y[i] = x[i];
      }
    }
  }
};

}  // namespace rope_cpu_detail

Tensor rotate(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table, Turn turn) {
  using namespace rope_cpu_detail;
  const Tensor x = x_BTHK.stride(-1) == 1 ? x_BTHK : x_BTHK.contiguous();
  const Tensor positions = positions_BT.contiguous();
  const int64_t T = x.size(1), H = x.size(2), K = x.size(3);
  const auto half = static_cast<int64_t>(table.inv_freq.size());
  const int64_t tokens = positions.numel();
  const int64_t* position = positions.const_data_ptr<int64_t>();
  Tensor y = at::empty(x.sizes(), x.options());

  CosSin fine(kFine, half);
  for (int64_t b = 0; b < kFine; ++b) {
    fine.set(b, static_cast<double>(b), table.inv_freq, table.magnitude);
  }
  // Coarse parts: a row for each value up to the largest, or for each token where positions are
  // large or negative.
  int64_t least = 0, most = 0;
  for (int64_t n = 0; n < tokens; ++n) {
    least = std::min(least, position[n] >> 6);
    most = std::max(most, position[n] >> 6);
  }
  const bool shared = least >= 0 && most < tokens;
  CosSin coarse(shared ? most + 1 : tokens, half);
  const int64_t coarse_rows = shared ? most + 1 : tokens;
  for_blocks(coarse_rows, rows_per_block(half * 32), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t part = shared ? row : position[row] >> 6;
      coarse.set(row, static_cast<double>(part * kFine), table.inv_freq, 1.0);
    }
  });

  with_types(x, [&]<class S, class A>(S, A) {
    for_blocks(tokens, rows_per_block(H * K), [&](int64_t, int64_t begin, int64_t end) {
      std::vector<A> room(static_cast<size_t>(2 * half));
      Span<S, A> span;
      span.head_stride = x.stride(2);
      span.heads = H;
      span.width = K;
      span.half = half;
      span.sign = turn == Turn::Forward ? 1.0 : -1.0;
      span.cos = room.data();
      span.sin = room.data() + half;
      for (int64_t n = begin; n < end; ++n) {
        const int64_t a = (shared ? position[n] >> 6 : n) * half,
                      b = (position[n] & (kFine - 1)) * half;
        span.coarse_cos = coarse.cos.data() + a;
        span.coarse_sin = coarse.sin.data() + a;
        span.fine_cos = fine.cos.data() + b;
        span.fine_sin = fine.sin.data() + b;
        span.x = x.const_data_ptr<S>() + (n / T) * x.stride(0) + (n % T) * x.stride(1);
        span.y = y.mutable_data_ptr<S>() + n * H * K;
        simd::run<Rotate<A>>(span);
      }
    });
  });
  return y;
}

}  // namespace strata::ops::rope_cpu
