#pragma once
// What the CPU kernels of ssd.h do within one chunk: L tokens, the M heads of a block (all of one
// group), everything packed in scan order, so that nothing here knows which way the scan runs.
// Matrices of pairs are held as [j][i]: token j writes, row i reads, i adjacent.
//
//   a_u = dt_u A,  s_j = sum over u <= j of a_u,  row i reads after token r = i - shift:
//   s'_i = sum over u <= r of a_u
//   D[j][i] = exp(s'_i - s_j) where start_i <= j <= r, else 0
#include <cmath>
#include <cstdint>

#include "core/ops/block_gemm.h"
#include "core/ops/simd.h"

namespace strata::ops::ssd_cpu {

// Row stride of per-token arrays and of matrices of pairs: whole registers.
inline constexpr int64_t kPad = 16;
inline int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

template <class A>
struct Chunk {
  int64_t L = 0, M = 0, P = 0, N = 0, ld = 0;
  int64_t shift = 0;
  const A* a_rate = nullptr;  // [M] A of the heads
  // Packed inputs.
  A* x = nullptr;      // [L, M P]
  A* b = nullptr;      // [L, N]
  A* c = nullptr;      // [L, N] of the token after which row i reads
  A* dt = nullptr;     // [M, ld]
  A* start = nullptr;  // [ld] first token that row i sees; -1: the incoming state too
  A* index = nullptr;  // [ld] 0, 1, 2, ...
  bool cut = false;    // some start is not -1
  // prepare()
  A* s = nullptr;        // [M, ld]
  A* s_row = nullptr;    // [M, ld]
  A* row = nullptr;      // [M, ld] exp(s'_i), what row i sees of the incoming state
  A* tail = nullptr;     // [M, ld] exp(S - s_j), what is left of token j at the end
  A* tail_dt = nullptr;  // [M, ld] tail * dt
  A* carried = nullptr;  // [M] what is left of the incoming state at the end
  A* scaled = nullptr;   // [L, M P] scratch
  A* g = nullptr;        // [L, ld] <b_j, c_i>
  A* w = nullptr;        // [L, ld] scratch: g D dt_j of one head
  int64_t width() const { return M * P; }
};

template <class V>
[[gnu::always_inline]] inline V at_most_zero(const V& v) {
  return v < V{} ? v : V{};
}

template <class V, class A>
[[gnu::always_inline]] inline void prepare(const Chunk<A>& k) {
  const bool leaves = k.start[k.L - 1] < 0;  // the incoming state survives the chunk
  // Of token j something is left when the last token still sees it; a scan that reads one token
  // later marks in start what the last row sees, which is the same run of tokens.
  const A first = k.start[k.L - 1];
  for (int64_t h = 0; h < k.M; ++h) {
    A *s = k.s + h * k.ld, *s_row = k.s_row + h * k.ld, *dt = k.dt + h * k.ld;
    A sum = 0;
    for (int64_t i = 0; i < k.L; ++i) {
      const A before = sum;
      sum += dt[i] * k.a_rate[h];
      s[i] = sum;
      s_row[i] = k.shift != 0 ? before : sum;
    }
    for (int64_t i = k.L; i < k.ld; ++i) {
      s[i] = sum;
      s_row[i] = sum;
      dt[i] = 0;
    }
    A *row = k.row + h * k.ld, *tail = k.tail + h * k.ld, *tail_dt = k.tail_dt + h * k.ld;
    for (int64_t i = 0; i < k.ld; i += simd::kLanes<V>) {
      const V starts = simd::load<V>(k.start + i);
      const V seen = simd::exp(at_most_zero(simd::load<V>(s_row + i)));
      simd::store(row + i, static_cast<V>(starts < V{} ? seen : V{}));
      V left = simd::exp(at_most_zero(static_cast<V>(sum - simd::load<V>(s + i))));
      left = simd::load<V>(k.index + i) < first ? V{} : left;
      simd::store(tail + i, left);
      simd::store(tail_dt + i, static_cast<V>(left * simd::load<V>(dt + i)));
    }
    k.carried[h] = leaves ? std::exp(sum < 0 ? sum : A(0)) : A(0);
  }
}

// to[i, h, :] = from[i, h, :] * scale[h, i]
template <class V, class A>
[[gnu::always_inline]] inline void scale_rows(const Chunk<A>& k, const A* from, const A* scale,
                                              A* to) {
  for (int64_t i = 0; i < k.L; ++i) {
    for (int64_t h = 0; h < k.M; ++h) {
      const A factor = scale[h * k.ld + i];
      const int64_t at = i * k.width() + h * k.P;
      simd::sweep<V>(
          k.P, [&](int64_t p, auto lanes) __attribute__((always_inline)) {
            simd::store(to + at + p, static_cast<V>(simd::load<V>(from + at + p, lanes) * factor),
                        lanes);
          });
    }
  }
}

// to[i, h, :] += from[i, h, :] * scale[h, i]
template <class V, class A>
[[gnu::always_inline]] inline void add_scaled_rows(const Chunk<A>& k, const A* from, const A* scale,
                                                   A* to) {
  for (int64_t i = 0; i < k.L; ++i) {
    for (int64_t h = 0; h < k.M; ++h) {
      const A factor = scale[h * k.ld + i];
      const int64_t at = i * k.width() + h * k.P;
      simd::sweep<V>(
          k.P, [&](int64_t p, auto lanes) __attribute__((always_inline)) {
            const V sum =
                simd::load<V>(to + at + p, lanes) + simd::load<V>(from + at + p, lanes) * factor;
            simd::store(to + at + p, sum, lanes);
          });
    }
  }
}

// out[h, i] = scale[h, i] <u[i, h, :], v[i, h, :]>
template <class V, class A>
[[gnu::always_inline]] inline void row_dots(const Chunk<A>& k, const A* u, const A* v,
                                            const A* scale, A* out) {
  for (int64_t i = 0; i < k.L; ++i) {
    for (int64_t h = 0; h < k.M; ++h) {
      const int64_t at = i * k.width() + h * k.P;
      const A dot = simd::sum_sweep<V>(
          k.P, [&](int64_t p, auto lanes) __attribute__((always_inline)) {
            return static_cast<V>(simd::load<V>(u + at + p, lanes) *
                                  simd::load<V>(v + at + p, lanes));
          });
      out[h * k.ld + i] = dot * scale[h * k.ld + i];
    }
  }
}

// D[j][i .. i + lanes) of head h.
template <class V, class A>
[[gnu::always_inline]] inline V pair_decay(const Chunk<A>& k, int64_t h, int64_t j, int64_t i) {
  const V s_row = simd::load<V>(k.s_row + h * k.ld + i);
  V d = simd::exp(at_most_zero(static_cast<V>(s_row - k.s[h * k.ld + j])));
  d = simd::load<V>(k.index + i) < static_cast<A>(j + k.shift) ? V{} : d;
  if (k.cut) {
    d = simd::load<V>(k.start + i) > static_cast<A>(j) ? V{} : d;
  }
  return d;
}

template <class V, class A>
[[gnu::always_inline]] inline void zero(A* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    p[i] = 0;
  }
}

// The chunk's own contribution to the state after it: out [M P, N].
template <class V, class A>
[[gnu::always_inline]] inline void local_state(const Chunk<A>& k, A* out) {
  scale_rows<V>(k, k.x, k.tail_dt, k.scaled);
  block::gemm<A>(true, false, k.width(), k.N, k.L, k.scaled, k.width(), k.b, k.N, out, k.N, false);
}

template <class V, class A>
[[gnu::always_inline]] inline void pair_products(const Chunk<A>& k) {
  block::gemm<A>(false, true, k.L, k.L, k.N, k.b, k.N, k.c, k.N, k.g, k.ld, false);
  for (int64_t j = 0; j < k.L; ++j) {
    for (int64_t i = k.L; i < k.ld; ++i) {
      k.g[j * k.ld + i] = 0;
    }
  }
}

// y [L, M P] from the state before the chunk [M P, N] and the chunk's own tokens; k.g must hold the
// pair products.
template <class V, class A>
[[gnu::always_inline]] inline void outputs(const Chunk<A>& k, const A* state, A* y) {
  constexpr int64_t lanes = simd::kLanes<V>;
  constexpr int64_t kRows = 32;  // rows of a block see no token after it
  const int64_t E = k.width();
  block::gemm<A>(false, true, k.L, E, k.N, k.c, k.N, state, k.N, y, E, false);
  scale_rows<V>(k, y, k.row, y);
  for (int64_t h = 0; h < k.M; ++h) {
    for (int64_t j = 0; j < k.L; ++j) {
      const A dt = k.dt[h * k.ld + j];
      const int64_t first = (j + k.shift) / lanes * lanes;
      A* w = k.w + j * k.ld;
      zero<V>(w, first < k.ld ? first : k.ld);
      for (int64_t i = first; i < k.ld; i += lanes) {
        const V d = pair_decay<V>(k, h, j, i);
        simd::store(w + i, static_cast<V>(simd::load<V>(k.g + j * k.ld + i) * d * dt));
      }
    }
    for (int64_t i = 0; i < k.L; i += kRows) {
      const int64_t end = i + kRows < k.L ? i + kRows : k.L;
      block::gemm<A>(true, false, end - i, k.P, end, k.w + i, k.ld, k.x + h * k.P, E,
                     y + i * E + h * k.P, E, true);
    }
  }
}

}  // namespace strata::ops::ssd_cpu
