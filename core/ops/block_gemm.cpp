// A tile of C of kTileRows x two registers stays in registers while k runs; B's rows are read as
// registers, A's elements are broadcast. Where B is held transposed, is too large for the
// first-level cache, or the tile is narrower than two registers, B's columns are first copied into
// a panel of that width, padded with zeros.
#include "core/ops/block_gemm.h"

#include <algorithm>

#include "core/ops/simd.h"

namespace strata::ops::block {

namespace block_gemm_detail {

constexpr int64_t kDepth = 256;  // steps of k whose panel of B is held at once
// Elements from the first to the last row of a panel beyond which its lines would evict one
// another.
constexpr int64_t kSpread = 64 * 1024;

// Lanes x lanes elements: interleaving row i with row i + lanes / 2, log2(lanes) times.
template <class V, class T>
[[gnu::always_inline]] inline void transpose_square(const T* from, int64_t from_stride, T* to,
                                                    int64_t to_stride) {
  constexpr int N = simd::kLanes<V>;
  V rows[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    rows[i] = simd::load<V>(from + i * from_stride);
  }
#pragma GCC unroll 4
  for (int step = 1; step < N; step *= 2) {
    V next[N];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = simd::interleave(rows[i], rows[i + N / 2], false);
      next[2 * i + 1] = simd::interleave(rows[i], rows[i + N / 2], true);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      rows[i] = next[i];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    simd::store(to + i * to_stride, rows[i]);
  }
}

template <class V, class T>
[[gnu::always_inline]] inline void transpose_block(int64_t rows, int64_t cols, const T* from,
                                                   int64_t from_stride, T* to, int64_t to_stride) {
  constexpr int64_t N = simd::kLanes<V>;
  int64_t r = 0;
  for (; r + N <= rows; r += N) {
    int64_t c = 0;
    for (; c + N <= cols; c += N) {
      transpose_square<V>(from + r * from_stride + c, from_stride, to + c * to_stride + r,
                          to_stride);
    }
    for (; c < cols; ++c) {
      for (int64_t i = 0; i < N; ++i) {
        to[c * to_stride + r + i] = from[(r + i) * from_stride + c];
      }
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

template <class T>
struct Operands {
  const T* a;
  int64_t row_step, k_step;  // from row to row and from k to k of op(A)
  const T* b;
  int64_t b_stride;
  T* c;
  int64_t c_stride;
  int64_t depth;
  bool accumulate;
};

// Rows x two registers of C.
template <class V, int Rows, class T>
[[gnu::always_inline]] inline void tile(const Operands<T>& o) {
  constexpr int64_t N = simd::kLanes<V>;
  V low[Rows], high[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
    low[i] = o.accumulate ? simd::load<V>(o.c + i * o.c_stride) : V{};
    high[i] = o.accumulate ? simd::load<V>(o.c + i * o.c_stride + N) : V{};
  }
  const T* a = o.a;
  const T* b = o.b;
  for (int64_t k = 0; k < o.depth; ++k) {
    const V b_low = simd::load<V>(b), b_high = simd::load<V>(b + N);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const V value = simd::broadcast_at<V>(a + i * o.row_step);
      low[i] += value * b_low;
      high[i] += value * b_high;
    }
    a += o.k_step;
    b += o.b_stride;
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
    simd::store(o.c + i * o.c_stride, low[i]);
    simd::store(o.c + i * o.c_stride + N, high[i]);
  }
}

template <class T>
struct Gemm {
  // A tile that fills the registers of the instruction set: 8 x 2 of 32, 4 x 2 of 16.
  template <int Bytes>
  static constexpr int kTileRows = Bytes == 64 ? 8 : 4;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(bool trans_a, bool trans_b, int64_t M, int64_t N,
                                                int64_t K, const T* A, int64_t lda, const T* B,
                                                int64_t ldb, T* C, int64_t ldc, bool accumulate) {
    using V = simd::Vec<T, Bytes>;
    constexpr int64_t kWidth = 2 * simd::kLanes<V>;
    constexpr int kRows = kTileRows<Bytes>;
    alignas(64) T panel[kDepth * kWidth];
    alignas(64) T corner[kRows * kWidth];
    Operands<T> o;
    o.row_step = trans_a ? 1 : lda;
    o.k_step = trans_a ? lda : 1;
    for (int64_t k = 0; k < K; k += kDepth) {
      o.depth = std::min(kDepth, K - k);
      const bool add = accumulate || k > 0;
      for (int64_t n = 0; n < N; n += kWidth) {
        const int64_t width = std::min(kWidth, N - n);
        o.b = trans_b ? B + n * ldb + k : B + k * ldb + n;
        o.b_stride = ldb;
        const bool far = o.depth * ldb > kSpread && M > kRows;
        if (trans_b || far || width < kWidth) {
          if (width < kWidth) {
            std::fill_n(panel, o.depth * kWidth, T(0));
          }
          if (trans_b) {
            transpose_block<V>(width, o.depth, o.b, ldb, panel, kWidth);
          } else {
            for (int64_t i = 0; i < o.depth; ++i) {
              std::copy_n(o.b + i * ldb, width, panel + i * kWidth);
            }
          }
          o.b = panel;
          o.b_stride = kWidth;
        }
        for (int64_t m = 0; m < M;) {
          o.a = A + m * o.row_step + k * o.k_step;
          T* c = C + m * ldc + n;
          const int64_t rows = M - m >= kRows ? kRows : M - m >= 4 ? 4 : M - m >= 2 ? 2 : 1;
          o.accumulate = add;
          o.c = c;
          o.c_stride = ldc;
          if (width < kWidth) {
            o.c = corner;
            o.c_stride = kWidth;
            for (int64_t i = 0; add && i < rows; ++i) {
              std::copy_n(c + i * ldc, width, corner + i * kWidth);
            }
          }
          if (rows == kRows) {
            tile<V, kRows>(o);
          } else if (rows == 4) {
            tile<V, 4>(o);
          } else if (rows == 2) {
            tile<V, 2>(o);
          } else {
            tile<V, 1>(o);
          }
          if (width < kWidth) {
            for (int64_t i = 0; i < rows; ++i) {
              std::copy_n(corner + i * kWidth, width, c + i * ldc);
            }
          }
          m += rows;
        }
      }
    }
    if (K <= 0 && !accumulate) {
      for (int64_t m = 0; m < M; ++m) {
        std::fill_n(C + m * ldc, N, T(0));
      }
    }
  }
};

template <class T>
struct Transpose {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(int64_t rows, int64_t cols, const T* from,
                                                int64_t from_stride, T* to, int64_t to_stride) {
    // Of 16-bit words as many rows as there are registers for.
    constexpr int kBytes = sizeof(T) == 2 && Bytes > 32 ? 32 : Bytes;
    transpose_block<simd::Vec<T, kBytes>>(rows, cols, from, from_stride, to, to_stride);
  }
};

}  // namespace block_gemm_detail

template <class T>
void gemm(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, const T* A, int64_t lda,
          const T* B, int64_t ldb, T* C, int64_t ldc, bool accumulate) {
  simd::run<block_gemm_detail::Gemm<T>>(trans_a, trans_b, M, N, K, A, lda, B, ldb, C, ldc,
                                        accumulate);
}
template void gemm<float>(bool, bool, int64_t, int64_t, int64_t, const float*, int64_t,
                          const float*, int64_t, float*, int64_t, bool);
template void gemm<double>(bool, bool, int64_t, int64_t, int64_t, const double*, int64_t,
                           const double*, int64_t, double*, int64_t, bool);

template <class T>
void transpose(int64_t rows, int64_t cols, const T* from, int64_t from_stride, T* to,
               int64_t to_stride) {
  simd::run<block_gemm_detail::Transpose<T>>(rows, cols, from, from_stride, to, to_stride);
}
template void transpose<float>(int64_t, int64_t, const float*, int64_t, float*, int64_t);
template void transpose<uint16_t>(int64_t, int64_t, const uint16_t*, int64_t, uint16_t*, int64_t);
template void transpose<double>(int64_t, int64_t, const double*, int64_t, double*, int64_t);

}  // namespace strata::ops::block
