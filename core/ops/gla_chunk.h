#pragma once
// One chunk of 64 tokens of one head, as the CPU kernels of gla_cpu.h hold it, and the steps that
// are not matrix products.
//
// A chunk is four sub-chunks of 16 tokens. With a_r = exp(g_r) the decay between tokens j < r is
// the product a_{j+1} ... a_r. For pairs in different halves of a block of sub-chunks it splits at
// the border into two factors, each at most one: into_r (from the border up to r, r included) for
// the query and out_j (behind j up to the border) for the key. So scores of such pairs are matrix
// products of scaled rows, at two levels (16 | 16 and 32 | 32), and what goes through the state is
// a third level, whose borders are the ends of the chunk: only the factors grow from level to
// level. Pairs within a sub-chunk multiply step by step. Nothing is divided by a decay and no
// exponential of a positive number is formed: a factor that underflows belongs to a product at
// least as small.
//
// Rows are padded: tokens to 64, widths to multiples of 16, with zeros (and decay one), which leave
// state, outputs and gradients alone. A token that restarts the state has decay zero.
#include <algorithm>
#include <cstdint>

#include "core/ops/simd.h"

namespace strata::ops::gla_chunk {

inline constexpr int64_t kChunk = 64, kSub = 16, kSubs = kChunk / kSub;

enum class Token : int8_t { Plain, Restart, Padding };

inline int64_t padded(int64_t width) { return (width + kSub - 1) / kSub * kSub; }

// rows of `width` from S (distance `stride`) to A (distance `to_stride`), times scale; rows without
// a token, padded tokens and padded columns become zero.
template <class S, class A>
struct LoadRows {
  const S* from;
  int64_t stride, width;
  const Token* tokens;
  int64_t rows;
  A scale;
  A* to;
  int64_t to_stride;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const LoadRows& a) {
    using V = simd::Vec<A, Bytes>;
    constexpr int64_t N = simd::kLanes<V>;
    const V scale = simd::broadcast_at<V>(&a.scale);
    for (int64_t r = 0; r < kChunk; ++r) {
      A* to = a.to + r * a.to_stride;
      if (r >= a.rows || a.tokens[r] == Token::Padding) {
        std::fill_n(to, a.to_stride, A(0));
        continue;
      }
      const S* from = a.from + r * a.stride;
      int64_t i = 0;
      for (; i + N <= a.width; i += N) {
        simd::store(to + i, static_cast<V>(simd::load<V>(from + i) * scale));
      }
      for (; i < a.width; ++i) {
        to[i] = static_cast<A>(from[i]) * a.scale;
      }
    }
  }
};

template <class S, class A>
struct StoreRows {
  const A* from;
  int64_t from_stride, width, rows;
  S* to;
  int64_t stride;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const StoreRows& a) {
    using V = simd::Vec<A, Bytes>;
    constexpr int64_t N = simd::kLanes<V>;
    for (int64_t r = 0; r < a.rows; ++r) {
      const A* from = a.from + r * a.from_stride;
      S* to = a.to + r * a.stride;
      int64_t i = 0;
      for (; i + N <= a.width; i += N) {
        simd::store(to + i, simd::load<V>(from + i));
      }
      for (; i < a.width; ++i) {
        to[i] = static_cast<S>(from[i]);
      }
    }
  }
};

// The decays of a chunk: all arrays [64, width], totals [4, width].
template <class A>
struct Decays {
  const A* g;
  int64_t g_stride, g_width;
  const Token* tokens;
  int64_t rows;
  A* a;       // per token
  A* into;    // product within the sub-chunk up to the token, included
  A* out;     // product within the sub-chunk behind the token
  A* totals;  // of each sub-chunk
  int64_t width;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const Decays& d) {
    using V = simd::Vec<A, Bytes>;
    constexpr int64_t N = simd::kLanes<V>;
    const A kOne = 1;
    const V one = simd::broadcast_at<V>(&kOne);
    for (int64_t r = 0; r < kChunk; ++r) {
      A* a = d.a + r * d.width;
      if (r >= d.rows || d.tokens[r] == Token::Padding) {
        std::fill_n(a, d.width, A(1));
        continue;
      }
      if (d.tokens[r] == Token::Restart) {
        std::fill_n(a, d.width, A(0));
        continue;
      }
      const A* g = d.g + r * d.g_stride;
      int64_t i = 0;
      for (; i + N <= d.g_width; i += N) {
        simd::store(a + i, simd::exp(simd::load<V>(g + i)));
      }
      if (i < d.g_width) {
        simd::store_part(a + i, simd::exp(simd::load_part<V>(g + i, d.g_width - i)), d.g_width - i);
        std::fill_n(a + d.g_width, d.width - d.g_width, A(1));
      }
    }
    for (int64_t i = 0; i < d.width; i += N) {
      for (int64_t s = 0; s < kSubs; ++s) {
        const int64_t at = s * kSub * d.width + i;
        V product = one;
        for (int64_t r = 0; r < kSub; ++r) {
          product *= simd::load<V>(d.a + at + r * d.width);
          simd::store(d.into + at + r * d.width, product);
        }
        simd::store(d.totals + s * d.width + i, product);
        product = one;
        for (int64_t r = kSub - 1; r >= 0; --r) {
          simd::store(d.out + at + r * d.width, product);
          product *= simd::load<V>(d.a + at + r * d.width);
        }
      }
    }
  }
};

// to = x * y over `count` adjacent elements, a multiple of 16.
template <class A>
struct Multiply {
  const A* x;
  const A* y;
  A* to;
  int64_t count;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const Multiply& m) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t i = 0; i < m.count; i += simd::kLanes<V>) {
      simd::store(m.to + i, static_cast<V>(simd::load<V>(m.x + i) * simd::load<V>(m.y + i)));
    }
  }
};

// rows of x *= factor, a row of `width`.
template <class A>
struct ScaleRows {
  A* x;
  const A* factor;
  int64_t rows, width;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const ScaleRows& m) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < m.rows; ++r) {
      A* x = m.x + r * m.width;
      for (int64_t i = 0; i < m.width; i += simd::kLanes<V>) {
        simd::store(x + i, static_cast<V>(simd::load<V>(x + i) * simd::load<V>(m.factor + i)));
      }
    }
  }
};

// Row i of x *= factor[i].
template <class A>
struct ScaleByRow {
  A* x;
  const A* factor;
  int64_t rows, width;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const ScaleByRow& m) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < m.rows; ++r) {
      A* x = m.x + r * m.width;
      const V factor = simd::broadcast_at<V>(m.factor + r);
      for (int64_t i = 0; i < m.width; i += simd::kLanes<V>) {
        simd::store(x + i, static_cast<V>(simd::load<V>(x + i) * factor));
      }
    }
  }
};

template <class A>
void multiply(const A* x, const A* y, A* to, int64_t count) {
  simd::run<Multiply<A>>(Multiply<A>{x, y, to, count});
}
template <class A>
void scale_rows(A* x, const A* factor, int64_t rows, int64_t width) {
  simd::run<ScaleRows<A>>(ScaleRows<A>{x, factor, rows, width});
}

// From one level of borders to the next, of factors and of rows that hold them: `into` arrays are
// scaled by the sub-chunks that came between their border and the next one, `out` arrays likewise.
// 16 | 16 -> 32 | 32: only the outer sub-chunk of each half moves away from its border.
template <class A>
void into_second_level(A* into, const A* totals, int64_t width) {
  scale_rows(into + 3 * kSub * width, totals + 2 * width, kSub, width);
}
template <class A>
void out_second_level(A* out, const A* totals, int64_t width) {
  scale_rows(out, totals + width, kSub, width);
}
// 32 | 32 -> the chunk's beginning (into) and end (out).
template <class A>
void into_chunk_level(A* into, const A* totals, int64_t width) {
  scale_rows(into + kSub * width, totals, 3 * kSub, width);
  scale_rows(into + 2 * kSub * width, totals + width, 2 * kSub, width);
}
template <class A>
void out_chunk_level(A* out, const A* totals, int64_t width) {
  scale_rows(out, totals + 3 * width, 3 * kSub, width);
  scale_rows(out, totals + 2 * width, 2 * kSub, width);
}
// decay of the whole chunk, [width]
template <class A>
void chunk_decay(const A* totals, A* decay, int64_t width) {
  multiply(totals, totals + width, decay, width);
  multiply(decay, totals + 2 * width, decay, width);
  multiply(decay, totals + 3 * width, decay, width);
}

// Pairs within a sub-chunk of 16 tokens: q, k, a and the results are rows of `width`, scores and
// their gradients rows of a [64, 64] matrix.
template <class A>
struct Diagonal {
  const A* q;
  const A* k;
  const A* a;
  int64_t width;
  A* scores;
  A* moved;  // [16, width]: keys decayed up to the present query, or queries back to the key
  // Backward only.
  const A* dscores = nullptr;
  A* dq = nullptr;  // added to
  A* dk = nullptr;
  A* dg = nullptr;
  A* dq_part = nullptr;  // [16, width] each
  A* dk_part = nullptr;

  template <class V>
  [[gnu::always_inline]] static inline void store_sums(V* partial, A* scores) {
    constexpr int N = simd::kLanes<V>;
#pragma GCC unroll 8
    for (int64_t j = 0; j < kSub; j += N) {
      V rows[N];
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        rows[i] = partial[j + i];
      }
      simd::store(scores + j, simd::sums_of(rows));
    }
  }
};

template <class A>
struct DiagonalForward {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const Diagonal<A>& d) {
    using V = simd::Vec<A, Bytes>;
    constexpr int64_t N = simd::kLanes<V>;
    V partial[kSub] = {};
    for (int64_t r = 0; r < kSub; ++r) {
      const A* q = d.q + r * d.width;
      const A* a = d.a + r * d.width;
      for (int64_t j = 0; j < r; ++j) {
        A* moved = d.moved + j * d.width;
        V sum{};
        for (int64_t i = 0; i < d.width; i += N) {
          const V key = simd::load<V>(moved + i) * simd::load<V>(a + i);
          simd::store(moved + i, key);
          sum += simd::load<V>(q + i) * key;
        }
        partial[j] = sum;
      }
      V sum{};
      for (int64_t i = 0; i < d.width; i += N) {
        const V key = simd::load<V>(d.k + r * d.width + i);
        simd::store(d.moved + r * d.width + i, key);
        sum += simd::load<V>(q + i) * key;
      }
      partial[r] = sum;
      Diagonal<A>::store_sums(partial, d.scores + r * kChunk);
    }
  }
};

}  // namespace strata::ops::gla_chunk
