#pragma once
// What the forward and the backward kernel of delta_product.h do alike with one chunk. Private to
// delta_product_cpu*.cpp. L = count n micro-steps, row r belongs to token r / n of the chunk.
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/ops/block_gemm.h"
#include "core/ops/delta_product_cpu.h"
#include "core/ops/simd.h"

namespace strata::ops::delta_cpu {

// Elements of [B, T, H, W] whose last dimension is dense.
template <class E>
struct Grid {
  E* data = nullptr;
  int64_t row = 0, token = 0, head = 0;
  E* at(int64_t b, int64_t t, int64_t h) const { return data + b * row + t * token + h * head; }
};
template <class E>
Grid<const E> read_grid(const Tensor& x) {
  if (!x.defined()) return {};
  return {x.const_data_ptr<E>(), x.stride(0), x.stride(1), x.stride(2)};
}
template <class E>
Grid<E> write_grid(const Tensor& x) {
  if (!x.defined()) return {};
  return {x.mutable_data_ptr<E>(), x.stride(0), x.stride(1), x.stride(2)};
}

// Working memory of one thread, handed out in cache lines.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t elements)
      : memory_(static_cast<A*>(
            ::operator new (static_cast<size_t>(elements) * sizeof(A), std::align_val_t{64}))),
        left_(elements) {}
  ~Scratch() { ::operator delete (memory_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  static int64_t size(int64_t elements) { return (elements + 15) / 16 * 16; }
  A* take(int64_t elements) {
    A* p = memory_ + used_;
    used_ += size(elements);
    STRATA_CHECK(used_ <= left_, "scratch of the delta product is too small");
    return p;
  }

 private:
  A* memory_;
  int64_t left_, used_ = 0;
};

struct Sizes {
  int64_t steps, K, V;
  int64_t most_tokens;  // of a chunk
  int64_t most() const { return most_tokens * steps; }
};

// Copies rows of a [B, T (steps), H, W] tensor, one chunk of them, widened: dst [tokens * per, W].
template <class V, class A, class S>
[[gnu::always_inline]] inline void load_rows(const Grid<const S>& x, int64_t b, int64_t h,
                                             const int64_t* tokens, int64_t count, int64_t per,
                                             int64_t width, A* dst) {
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t j = 0; j < per; ++j) {
      const S* from = x.at(b, tokens[t] * per + j, h);
      A* to = dst + (t * per + j) * width;
      simd::sweep<V>(
          width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            simd::store(to + i, simd::load<V>(from + i, lanes), lanes);
          });
    }
  }
}
template <class V, class A, class S>
[[gnu::always_inline]] inline void store_rows(const A* src, const Grid<S>& x, int64_t b, int64_t h,
                                              const int64_t* tokens, int64_t count, int64_t per,
                                              int64_t width) {
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t j = 0; j < per; ++j) {
      const A* from = src + (t * per + j) * width;
      S* to = x.at(b, tokens[t] * per + j, h);
      simd::sweep<V>(
          width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            simd::store(to + i, simd::load<V>(from + i, lanes), lanes);
          });
    }
  }
}

// to = from * factor
template <class V, class A>
[[gnu::always_inline]] inline void scale_row(const A* from, A factor, A* to, int64_t width) {
  simd::sweep<V>(
      width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        simd::store(to + i, static_cast<V>(simd::load<V>(from + i, lanes) * factor), lanes);
      });
}
template <class V, class A>
[[gnu::always_inline]] inline A dot(const A* a, const A* b, int64_t width) {
  return simd::sum_sweep<V>(
      width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        return static_cast<V>(simd::load<V>(a + i, lanes) * simd::load<V>(b + i, lanes));
      });
}

// Decay factors of one chunk, all in (0, 1]. G_t: sum of the gates of the chunk's tokens 0..t.
template <class A>
struct Decay {
  bool on = false;
  int64_t count = 0;
  A* between = nullptr;     // [count, most]: exp(G_t - G_u) for u <= t
  A* from_start = nullptr;  // exp(G_t)
  A* to_end = nullptr;      // exp(G_last - G_t)
  double* sums = nullptr;
  int64_t most = 0;
  A whole() const { return on ? from_start[count - 1] : A(1); }
};
template <class V, class A>
[[gnu::always_inline]] inline void fill_decay(Decay<A>& d, const Grid<const A>& gate, int64_t b,
                                              int64_t h, const int64_t* tokens, int64_t count) {
  d.count = count;
  if (!d.on) return;
  double sum = 0;
  for (int64_t t = 0; t < count; ++t)
    d.sums[t] = sum += static_cast<double>(*gate.at(b, tokens[t], h));
  const auto exp_row = [&](A * row, int64_t width) __attribute__((always_inline)) {
    simd::sweep<V>(
        width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          simd::store(row + i, simd::exp(simd::load<V>(row + i, lanes)), lanes);
        });
  };
  for (int64_t t = 0; t < count; ++t) {
    A* row = d.between + t * d.most;
    for (int64_t u = 0; u <= t; ++u) row[u] = static_cast<A>(d.sums[t] - d.sums[u]);
    exp_row(row, t + 1);
    d.from_start[t] = static_cast<A>(d.sums[t]);
    d.to_end[t] = static_cast<A>(sum - d.sums[t]);
  }
  exp_row(d.from_start, count);
  exp_row(d.to_end, count);
}

// x [L, L] := strictly lower part of x, row r times factor[r] (null: 1), entries times the decay
// between their tokens; zero elsewhere.
template <class V, class A>
[[gnu::always_inline]] inline void mask_strict(A* x, const A* factor, const Decay<A>& d,
                                               int64_t steps) {
  const int64_t L = d.count * steps;
  for (int64_t r = 0; r < L; ++r) {
    A* row = x + r * L;
    const A f = factor != nullptr ? factor[r] : A(1);
    if (d.on) {
      const A* between = d.between + (r / steps) * d.most;
      if (steps == 1) {
        for (int64_t c = 0; c < r; ++c) row[c] *= f * between[c];
      } else {
        int64_t c = 0;
        for (int64_t u = 0; c < r; ++u) {
          const A g = f * between[u];
          for (int64_t j = 0; j < steps && c < r; ++j, ++c) row[c] *= g;
        }
      }
    } else if (factor != nullptr) {
      scale_row<V>(row, f, row, r);
    }
    for (int64_t c = r; c < L; ++c) row[c] = 0;
  }
}
// x [count, L] := entries of tokens u <= t times the decay between them; zero elsewhere.
template <class A>
[[gnu::always_inline]] inline void mask_tokens(A* x, const Decay<A>& d, int64_t steps) {
  const int64_t L = d.count * steps;
  for (int64_t t = 0; t < d.count; ++t) {
    A* row = x + t * L;
    if (d.on) {
      const A* between = d.between + t * d.most;
      int64_t c = 0;
      for (int64_t u = 0; u <= t; ++u) {
        for (int64_t j = 0; j < steps; ++j, ++c) row[c] *= between[u];
      }
    }
    for (int64_t c = (t + 1) * steps; c < L; ++c) row[c] = 0;
  }
}

// out [L, L] = (I + a)^-1 for the strictly lower a [L, L]; work [L, L]. Blocks of 16 rows by
// forward substitution, T_r = e_r - sum_{l < r} a_rl T_l, then halves: T21 = -T22 a21 T11.
template <class V, class A>
[[gnu::always_inline]] inline void invert_block(const A* a, int64_t L, int64_t at, int64_t size,
                                                A* out) {
  for (int64_t r = 0; r < size; ++r) {
    A* row = out + (at + r) * L + at;
    const A* factors = a + (at + r) * L + at;
    simd::sweep<V>(
        size, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          V sum{};
          for (int64_t l = 0; l < r; ++l) {
            sum -= simd::load<V>(out + (at + l) * L + at + i, lanes) * factors[l];
          }
          simd::store(row + i, sum, lanes);
        });
    row[r] = 1;
  }
}
template <class V, class A>
[[gnu::always_inline]] inline void invert(const A* a, int64_t L, A* out, A* work) {
  constexpr int64_t kBlock = 16;
  for (int64_t r = 0; r < L; ++r) {
    for (int64_t c = 0; c < L; ++c) out[r * L + c] = 0;
  }
  for (int64_t at = 0; at < L; at += kBlock) {
    invert_block<V>(a, L, at, std::min(kBlock, L - at), out);
  }
  for (int64_t half = kBlock; half < L; half *= 2) {
    for (int64_t at = 0; at + half < L; at += 2 * half) {
      const int64_t low = at + half, size = std::min(half, L - low);
      block::gemm(false, false, size, half, half, a + low * L + at, L, out + at * L + at, L, work,
                  half, false);
      for (int64_t i = 0; i < size * half; ++i) work[i] = -work[i];
      block::gemm(false, false, size, half, size, out + low * L + low, L, work, half,
                  out + low * L + at, L, false);
    }
  }
}

// y [L, W] = t x or t^T x for a lower triangular t [L, L], without most of its zeros.
inline constexpr int64_t kTriangleRows = 32;
template <class A>
void lower_times(const A* t, int64_t L, const A* x, A* y, int64_t width, bool accumulate = false) {
  for (int64_t r = 0; r < L; r += kTriangleRows) {
    const int64_t rows = std::min(kTriangleRows, L - r);
    block::gemm(false, false, rows, width, r + rows, t + r * L, L, x, width, y + r * width, width,
                accumulate);
  }
}
template <class A>
void upper_times(const A* t, int64_t L, const A* x, A* y, int64_t width, bool accumulate = false) {
  for (int64_t r = 0; r < L; r += kTriangleRows) {
    const int64_t rows = std::min(kTriangleRows, L - r);
    block::gemm(true, false, rows, width, L - r, t + r * L + r, L, x + r * width, width,
                y + r * width, width, accumulate);
  }
}
// lower [L, L] = a b^T where needed for its lower triangle; what is above is not written or
// garbage.
template <class A>
void lower_outer(const A* a, const A* b, int64_t L, int64_t width, A* lower) {
  for (int64_t r = 0; r < L; r += kTriangleRows) {
    const int64_t rows = std::min(kTriangleRows, L - r);
    block::gemm(false, true, rows, r + rows, width, a + r * width, width, b, width, lower + r * L,
                L, false);
  }
}

// Part of a chunk that both directions need of the state before it: with x = K S,
//   rest = V - exp(G) x,   update = inverse (beta rest).
template <class V, class A>
[[gnu::always_inline]] inline void chunk_update(const A* k, const A* v, const A* state,
                                                const A* beta, const A* inverse, const Decay<A>& d,
                                                const Sizes& s, bool zero_state, A* rest,
                                                A* weighted, A* update) {
  const int64_t L = d.count * s.steps;
  if (!zero_state) {
    block::gemm(false, false, L, s.V, s.K, k, s.K, state, s.V, weighted, s.V, false);
  }
  for (int64_t r = 0; r < L; ++r) {
    const A decay = d.on ? d.from_start[r / s.steps] : A(1);
    A* x = weighted + r * s.V;
    A* to = rest + r * s.V;
    const A* from = v + r * s.V;
    const A b = beta[r];
    simd::sweep<V>(
        s.V, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          V left = simd::load<V>(from + i, lanes);
          if (!zero_state) left -= simd::load<V>(x + i, lanes) * decay;
          simd::store(to + i, left, lanes);
          simd::store(x + i, static_cast<V>(left * b), lanes);
        });
  }
  lower_times(inverse, L, weighted, update, s.V);
}

// state = whole state + (k to_end)^T update; faded [L, K] is working memory for k to_end.
template <class V, class A>
[[gnu::always_inline]] inline void chunk_state(const A* k, const A* update, const Decay<A>& d,
                                               const Sizes& s, bool zero_state, A* faded,
                                               A* state) {
  const int64_t L = d.count * s.steps;
  if (d.on) {
    for (int64_t r = 0; r < L; ++r) {
      scale_row<V>(k + r * s.K, d.to_end[r / s.steps], faded + r * s.K, s.K);
    }
    if (!zero_state) scale_row<V>(state, d.whole(), state, s.K * s.V);
  }
  block::gemm(true, false, s.K, s.V, L, d.on ? faded : k, s.K, update, s.V, state, s.V,
              !zero_state);
}

}  // namespace strata::ops::delta_cpu
