// Every turn walks forwards once, from the state kept at its beginning to the state before each of
// its chunks (transposed, as it is needed), then backwards with the gradient of the state. Sums run
// in an order that depends on shapes alone.
#include <ATen/ops/empty.h>

#include "core/ops/cpu_rows.h"
#include "core/ops/gla_walk.h"

namespace strata::ops::gla_cpu {

namespace gla_cpu_backward_detail {

// The pairs of a token with itself have no decay: they are left out of the sums that make dg.
template <class A>
struct DiagonalBackward {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const Diagonal<A>& d) {
    using V = simd::Vec<A, Bytes>;
    constexpr int64_t N = simd::kLanes<V>;
    const int64_t W = d.width;
    V partial[kSub] = {};
    for (int64_t r = 0; r < kSub; ++r) {
      const A* dscores = d.dscores + r * kChunk;
      for (int64_t i = 0; i < W; i += N) {
        const V q = simd::load<V>(d.q + r * W + i), a = simd::load<V>(d.a + r * W + i);
        V dq{};
        for (int64_t j = 0; j < r; ++j) {
          const V key = simd::load<V>(d.moved + j * W + i) * a;
          simd::store(d.moved + j * W + i, key);
          partial[j] = i == 0 ? static_cast<V>(q * key) : static_cast<V>(partial[j] + q * key);
          dq += simd::broadcast_at<V>(dscores + j) * key;
        }
        const V key = simd::load<V>(d.k + r * W + i);
        simd::store(d.moved + r * W + i, key);
        partial[r] = i == 0 ? static_cast<V>(q * key) : static_cast<V>(partial[r] + q * key);
        simd::store(d.dq_part + r * W + i, dq);
      }
      Diagonal<A>::store_sums(partial, d.scores + r * kChunk);
    }
    std::copy_n(d.q, kSub * W, d.moved);
    for (int64_t j = kSub - 1; j >= 0; --j) {
      for (int64_t i = 0; i < W; i += N) {
        V dk{};
        if (j + 1 < kSub) {
          const V a = simd::load<V>(d.a + (j + 1) * W + i);
          for (int64_t r = j + 1; r < kSub; ++r) {
            const V query = simd::load<V>(d.moved + r * W + i) * a;
            simd::store(d.moved + r * W + i, query);
            dk += simd::broadcast_at<V>(d.dscores + r * kChunk + j) * query;
          }
        }
        simd::store(d.dk_part + j * W + i, dk);
      }
    }
    for (int64_t i = 0; i < W; i += N) {
      V sum{};
      for (int64_t r = kSub - 1; r >= 0; --r) {
        const int64_t at = r * W + i;
        const V q = simd::load<V>(d.q + at), k = simd::load<V>(d.k + at);
        const V dq = simd::load<V>(d.dq_part + at), dk = simd::load<V>(d.dk_part + at);
        const V own = simd::broadcast_at<V>(d.dscores + r * kChunk + r);
        sum += q * dq - k * dk;
        simd::store(d.dg + at, static_cast<V>(simd::load<V>(d.dg + at) + sum));
        // No pair reaches over a decay of zero: behind it only rounding errors of others are left.
        sum = simd::load<V>(d.a + at) > A(0) ? sum : V{};
        simd::store(d.dq + at, static_cast<V>(simd::load<V>(d.dq + at) + (dq + own * k)));
        simd::store(d.dk + at, static_cast<V>(simd::load<V>(d.dk + at) + (dk + own * q)));
      }
    }
  }
};

// What a level gives to queries: x = factor * product over `rows` rows; dq += x, and dg of a row
// gains the sum of q x over the rows from it on.
template <class A>
struct AddToQueries {
  const A* product;
  const A* factor;
  const A* q;
  A* dq;
  A* dg;
  int64_t rows, width;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const AddToQueries& p) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t i = 0; i < p.width; i += simd::kLanes<V>) {
      V sum{};
      for (int64_t r = p.rows - 1; r >= 0; --r) {
        const int64_t at = r * p.width + i;
        const V x = simd::load<V>(p.product + at) * simd::load<V>(p.factor + at);
        sum += simd::load<V>(p.q + at) * x;
        simd::store(p.dq + at, static_cast<V>(simd::load<V>(p.dq + at) + x));
        simd::store(p.dg + at, static_cast<V>(simd::load<V>(p.dg + at) + sum));
      }
    }
  }
};

// And to keys: dk += x; dg of a row gains the sum of k x over the rows before it, and of `base`
// where given.
template <class A>
struct AddToKeys {
  const A* product;
  const A* factor;
  const A* k;
  A* dk;
  A* dg;
  int64_t rows, width;
  const A* base = nullptr;  // [width]

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const AddToKeys& p) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t i = 0; i < p.width; i += simd::kLanes<V>) {
      V sum = p.base != nullptr ? simd::load<V>(p.base + i) : V{};
      for (int64_t r = 0; r < p.rows; ++r) {
        const int64_t at = r * p.width + i;
        const V x = simd::load<V>(p.product + at) * simd::load<V>(p.factor + at);
        simd::store(p.dg + at, static_cast<V>(simd::load<V>(p.dg + at) + sum));
        simd::store(p.dk + at, static_cast<V>(simd::load<V>(p.dk + at) + x));
        sum += simd::load<V>(p.k + at) * x;
      }
    }
  }
};

// sum[i] = factor[i] * sum over rows of x[row, i] y[row, i]
template <class A>
struct DotColumns {
  const A* x;
  const A* y;
  const A* factor;
  A* sum;
  int64_t rows, width;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const DotColumns& p) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t i = 0; i < p.width; i += simd::kLanes<V>) {
      V even{}, odd{};
      for (int64_t r = 0; r + 1 < p.rows; r += 2) {  // a multiple of 16
        const int64_t at = r * p.width + i;
        even += simd::load<V>(p.x + at) * simd::load<V>(p.y + at);
        odd += simd::load<V>(p.x + at + p.width) * simd::load<V>(p.y + at + p.width);
      }
      simd::store(p.sum + i, static_cast<V>((even + odd) * simd::load<V>(p.factor + i)));
    }
  }
};

// One task: some heads of one row.
template <class S, class A>
struct Backward {
  const Inputs& in;
  const Sizes& n;
  const Token* tokens;  // of the row
  const bool with_do;
  const Heads<const S> q_in, k_in, v_in, do_in;
  const Heads<const A> g_in;
  const Heads<S> dq_out, dk_out, dv_out;
  const Heads<A> dg_out;
  const int64_t b, Kp, Vp, matrix;
  Arena<A> arena;
  ChunkDecays<A> decays;
  A *q, *k, *v, *d_o, *queries, *keys, *scores, *dscores;
  A *moved, *dq_part, *dk_part, *product, *dq, *dk, *dg, *dv, *through;
  A* before;   // [group, kTurn, Vp, Kp] states before the chunks of a turn, transposed
  A* dstates;  // [heads, group, Vp, Kp] of the present chunk's end, transposed

  static int64_t elements(const Sizes& n, int64_t heads) {
    const int64_t wide = kChunk * n.Kp, tall = kChunk * n.Vp;
    return ChunkDecays<A>::elements(n.Kp) + 8 * wide + 3 * kSub * n.Kp + n.Kp + 3 * tall +
           2 * kChunk * kChunk + (kTurn + heads) * n.group * n.Kp * n.Vp + 24 * 32;
  }
  Backward(const Tensor& do_BTHV, const Inputs& inputs, const Sizes& sizes,
           const std::vector<Token>& kinds, const Gradients& gradients, int64_t row, int64_t heads)
      : in(inputs),
        n(sizes),
        tokens(kinds.data() + row * n.T),
        with_do(do_BTHV.defined()),
        q_in(in.q_BTHK),
        k_in(in.k_BTGK),
        v_in(in.v_BTGV),
        do_in(with_do ? do_BTHV : in.v_BTGV),
        g_in(in.g_BTGK),
        dq_out(gradients.q),
        dk_out(gradients.k),
        dv_out(gradients.v),
        dg_out(gradients.g),
        b(row),
        Kp(n.Kp),
        Vp(n.Vp),
        matrix(Kp * Vp),
        arena(elements(n, heads)),
        decays(arena, Kp) {
    for (A** wide : {&q, &k, &queries, &keys, &product, &dq, &dk, &dg}) {
      *wide = arena.take(kChunk * Kp);
    }
    for (A** tall : {&v, &d_o, &dv}) *tall = arena.take(kChunk * Vp);
    for (A** pairs : {&scores, &dscores}) *pairs = arena.take(kChunk * kChunk);
    for (A** part : {&moved, &dq_part, &dk_part}) *part = arena.take(kSub * Kp);
    through = arena.take(Kp);
    before = arena.take(n.group * kTurn * matrix);
    dstates = arena.take(heads * n.group * matrix);
  }

  void run(const Tensor& dstate_BHKV, const Tensor& kept_LBHKV, const Gradients& gradients,
           int64_t first, int64_t heads) {
    const int64_t head = b * n.H + first * n.group, count = heads * n.group, size = n.K * n.V;
    for (int64_t i = 0; dstate_BHKV.defined() && i < count; ++i) {
      block::transpose<A>(n.K, n.V, dstate_BHKV.const_data_ptr<A>() + (head + i) * size, n.V,
                          dstates + i * matrix, Kp);
    }
    for (int64_t turn = n.turns - 1; turn >= 0; --turn) {
      const Tensor kept = turn == 0 ? in.initial_state_BHKV : kept_LBHKV.select(0, turn - 1);
      const A* states = kept.defined() ? kept.const_data_ptr<A>() + head * size : nullptr;
      const int64_t begin = turn * kTurn, end = std::min(n.chunks, begin + kTurn);
      for (int64_t i = 0; i < heads; ++i) {
        replay(first + i, begin, end, states != nullptr ? states + i * n.group * size : nullptr);
        for (int64_t c = end - 1; c >= begin; --c) {
          chunk(first + i, c * kChunk, begin * kChunk, before + (c - begin) * matrix,
                dstates + i * n.group * matrix);
        }
      }
    }
    for (int64_t i = 0; gradients.initial_state.defined() && i < count; ++i) {
      block::transpose<A>(n.V, n.K, dstates + i * matrix, Kp,
                          gradients.initial_state.mutable_data_ptr<A>() + (head + i) * size, n.V);
    }
  }

  // Fills `before` for chunks [begin, end) from the states [group, K, V] at their beginning, null:
  // zeros.
  void replay(int64_t g, int64_t begin, int64_t end, const A* states) {
    for (int64_t j = 0; j < n.group; ++j) {
      A* at = before + j * kTurn * matrix;
      if (states != nullptr) {
        block::transpose<A>(n.K, n.V, states + j * n.K * n.V, n.V, at, Kp);
      } else {
        std::fill_n(at, matrix, A(0));
      }
    }
    for (int64_t c = begin; c + 1 < end; ++c) {
      const int64_t t = c * kChunk, next = t + kChunk, last = std::min(n.T, end * kChunk);
      load_rows<S, A>(k_in.at(b, t, g), k_in.token, n.K, tokens + t, kChunk, A(1), k, Kp);
      load_rows<S, A>(v_in.at(b, t, g), v_in.token, n.V, tokens + t, kChunk, A(1), v, Vp);
      decays.compute(g_in.at(b, t, g), g_in.token, n.K, tokens + t, kChunk);
      multiply(k, decays.out, keys, kChunk * Kp);
      out_second_level(keys, decays.totals, Kp);
      out_chunk_level(keys, decays.totals, Kp);
      for (int64_t j = 0; j < n.group; ++j) {
        const A* from = before + (j * kTurn + c - begin) * matrix;
        A* to = before + (j * kTurn + c - begin + 1) * matrix;
        prefetch(k_in, b, next, g, 0, last);
        std::copy_n(from, matrix, to);
        prefetch(v_in, b, next, g, 0, last);
        scale_rows(to, decays.whole, Vp, Kp);
        prefetch(g_in, b, next, g, 0, last);
        block::gemm<A>(true, false, Vp, Kp, kChunk, v, Vp, keys, Kp, to, Kp, true);
      }
    }
  }

  // The chunk at token t, with the states before it; the chunks from `first` on are this head's
  // too.
  void chunk(int64_t g, int64_t t, int64_t first, const A* states_VK, A* head_dstates) {
    const int64_t rows = std::min(kChunk, n.T - t), next = t - kChunk;
    load_rows<S, A>(k_in.at(b, t, g), k_in.token, n.K, tokens + t, rows, A(1), k, Kp);
    load_rows<S, A>(v_in.at(b, t, g), v_in.token, n.V, tokens + t, rows, A(1), v, Vp);
    std::fill_n(dk, kChunk * Kp, A(0));
    std::fill_n(dg, kChunk * Kp, A(0));
    for (int64_t j = 0; j < n.group; ++j) {
      const int64_t h = g * n.group + j;
      A* dstate = head_dstates + j * matrix;
      const A* state_VK = states_VK + j * kTurn * matrix;
      decays.compute(g_in.at(b, t, g), g_in.token, n.K, tokens + t, rows);
      load_rows<S, A>(q_in.at(b, t, h), q_in.token, n.K, tokens + t, rows, static_cast<A>(in.scale),
                      q, Kp);
      if (with_do) {
        load_rows<S, A>(do_in.at(b, t, h), do_in.token, n.V, tokens + t, rows, A(1), d_o, Vp);
      }
      std::fill_n(dq, kChunk * Kp, A(0));

      // Within the chunk.
      block::gemm<A>(false, true, kChunk / 2, kChunk / 2, Vp, d_o, Vp, v, Vp, dscores, kChunk,
                     false);
      block::gemm<A>(false, true, kChunk / 2, kChunk, Vp, d_o + kChunk / 2 * Vp, Vp, v, Vp,
                     dscores + kChunk / 2 * kChunk, kChunk, false);
      for (int64_t s = 0; s < kSubs; ++s) {
        const int64_t at = s * kSub * Kp;
        Diagonal<A> d;
        d.q = q + at;
        d.k = k + at;
        d.a = decays.a + at;
        d.width = Kp;
        d.scores = scores + s * kSub * (kChunk + 1);
        d.moved = moved;
        d.dscores = dscores + s * kSub * (kChunk + 1);
        d.dq = dq + at;
        d.dk = dk + at;
        d.dg = dg + at;
        d.dq_part = dq_part;
        d.dk_part = dk_part;
        simd::run<DiagonalBackward<A>>(d);
      }
      const auto level = [&](int64_t query, int64_t key, int64_t size) {
        block_scores(scores, queries, keys, query, key, size, Kp);
        const A* dblock = dscores + query * kChunk + key;
        block::gemm<A>(false, false, size, Kp, size, dblock, kChunk, keys + key * Kp, Kp, product,
                       Kp, false);
        simd::run<AddToQueries<A>>(AddToQueries<A>{product, decays.into + query * Kp,
                                                   q + query * Kp, dq + query * Kp, dg + query * Kp,
                                                   size, Kp});
        block::gemm<A>(true, false, size, Kp, size, dblock, kChunk, queries + query * Kp, Kp,
                       product, Kp, false);
        simd::run<AddToKeys<A>>(AddToKeys<A>{product, decays.out + key * Kp, k + key * Kp,
                                             dk + key * Kp, dg + key * Kp, size, Kp});
      };
      multiply(q, decays.into, queries, kChunk * Kp);
      multiply(k, decays.out, keys, kChunk * Kp);
      prefetch(g_in, b, next, g, first, n.T);
      level(kSub, 0, kSub);
      prefetch(k_in, b, next, g, first, n.T);
      level(3 * kSub, 2 * kSub, kSub);
      for (A* rows_into : {queries, decays.into}) {
        into_second_level(rows_into, decays.totals, Kp);
      }
      for (A* rows_out : {keys, decays.out}) {
        out_second_level(rows_out, decays.totals, Kp);
      }
      prefetch(v_in, b, next, g, first, n.T);
      level(2 * kSub, 0, 2 * kSub);
      if (with_do) prefetch(do_in, b, next, h, first, n.T);

      // Through the state.
      for (A* rows_into : {queries, decays.into}) {
        into_chunk_level(rows_into, decays.totals, Kp);
      }
      for (A* rows_out : {keys, decays.out}) {
        out_chunk_level(rows_out, decays.totals, Kp);
      }
      block::gemm<A>(false, false, kChunk, Kp, Vp, d_o, Vp, state_VK, Kp, product, Kp, false);
      simd::run<AddToQueries<A>>(AddToQueries<A>{product, decays.into, q, dq, dg, kChunk, Kp});
      simd::run<DotColumns<A>>(DotColumns<A>{state_VK, dstate, decays.whole, through, Vp, Kp});
      block::gemm<A>(false, false, kChunk, Kp, Vp, v, Vp, dstate, Kp, product, Kp, false);
      simd::run<AddToKeys<A>>(AddToKeys<A>{product, decays.out, k, dk, dg, kChunk, Kp, through});

      prefetch(q_in, b, next, h, first, n.T);
      // dv = scores^T do + keys D
      block::gemm<A>(false, true, kChunk, Vp, Kp, keys, Kp, dstate, Kp, dv, Vp, j > 0);
      block::gemm<A>(true, false, kChunk / 2, Vp, kChunk, scores, kChunk, d_o, Vp, dv, Vp, true);
      block::gemm<A>(true, false, kChunk / 2, Vp, kChunk / 2, scores + kChunk / 2 * (kChunk + 1),
                     kChunk, d_o + kChunk / 2 * Vp, Vp, dv + kChunk / 2 * Vp, Vp, true);

      scale_rows(dstate, decays.whole, Vp, Kp);
      block::gemm<A>(true, false, Vp, Kp, kChunk, d_o, Vp, queries, Kp, dstate, Kp, true);

      load_rows<A, A>(dq, Kp, Kp, tokens + t, rows, static_cast<A>(in.scale), dq, Kp);
      store_rows<S, A>(dq, Kp, n.K, rows, dq_out.at(b, t, h), dq_out.token);
    }
    // Decay zero has gradient zero (the sums above leave its rounding errors); padding has none.
    for (int64_t r = 0; r < rows; ++r) {
      const A* a = decays.a + r * Kp;
      for (int64_t i = 0; i < Kp; ++i) {
        dg[r * Kp + i] = a[i] > 0 && tokens[t + r] != Token::Padding ? dg[r * Kp + i] : A(0);
      }
    }
    store_rows<S, A>(dk, Kp, n.K, rows, dk_out.at(b, t, g), dk_out.token);
    store_rows<S, A>(dv, Vp, n.V, rows, dv_out.at(b, t, g), dv_out.token);
    store_rows<A, A>(dg, Kp, n.K, rows, dg_out.at(b, t, g), dg_out.token);
  }
};

}  // namespace gla_cpu_backward_detail

Gradients backward(const Tensor& do_BTHV, const Tensor& dstate_BHKV, const Inputs& in,
                   const Tensor& kept_LBHKV, bool want_initial_state) {
  using namespace gla_cpu_backward_detail;
  const Sizes n(in);
  Gradients gradients;
  gradients.q = at::empty({n.B, n.T, n.H, n.K}, in.q_BTHK.options());
  gradients.k = at::empty({n.B, n.T, n.G, n.K}, in.k_BTGK.options());
  gradients.v = at::empty({n.B, n.T, n.G, n.V}, in.v_BTGV.options());
  gradients.g = at::empty({n.B, n.T, n.G, n.K}, in.g_BTGK.options());
  if (want_initial_state) {
    gradients.initial_state = at::empty({n.B, n.H, n.K, n.V}, in.g_BTGK.options());
  }
  const std::vector<Token> kinds = token_kinds(in, n);
  with_types(in.q_BTHK, [&]<class S, class A>(S, A) {
    for_heads(n, [&](int64_t b, int64_t first, int64_t heads) {
      Backward<S, A>(do_BTHV, in, n, kinds, gradients, b, heads)
          .run(dstate_BHKV, kept_LBHKV, gradients, first, heads);
    });
  });
  return gradients;
}

}  // namespace strata::ops::gla_cpu
