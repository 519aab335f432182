// Each task walks one row's chunks for one key/value head and the query heads that share it. The
// backward walks forwards once, keeping the state before every chunk (transposed, as it is needed),
// then backwards with the gradient of the state. Sums run in an order that depends on shapes alone.
#include "core/ops/gla_cpu.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "core/ops/block_gemm.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/gla_chunk.h"

namespace strata::ops::gla_cpu {

namespace gla_cpu_detail {

using namespace gla_chunk;

// [B, T, heads, width] with adjacent features.
template <class S>
struct Heads {
  Tensor tensor;
  S* data = nullptr;
  int64_t row = 0, token = 0, head = 0;

  explicit Heads(const Tensor& x)
      : tensor(x.size(3) <= 1 || x.stride(3) == 1 ? x : x.contiguous()),
        row(tensor.stride(0)),
        token(tensor.stride(1)),
        head(tensor.stride(2)) {
    if constexpr (std::is_const_v<S>) {
      data = tensor.const_data_ptr<std::remove_const_t<S>>();
    } else {
      data = tensor.mutable_data_ptr<S>();
    }
  }
  S* at(int64_t b, int64_t t, int64_t h) const { return data + b * row + t * token + h * head; }
};

struct Sizes {
  int64_t B, T, H, G, K, V;
  int64_t group, chunks, Kp, Vp;
  explicit Sizes(const Inputs& in)
      : B(in.q_BTHK.size(0)),
        T(in.q_BTHK.size(1)),
        H(in.q_BTHK.size(2)),
        G(in.k_BTGK.size(2)),
        K(in.q_BTHK.size(3)),
        V(in.v_BTGV.size(3)),
        group(G > 0 ? H / G : 0),
        chunks((T + kChunk - 1) / kChunk),
        Kp(padded(K)),
        Vp(padded(V)) {}
};

// What each token does to the state. A segment goes on behind padding.
std::vector<Token> token_kinds(const Inputs& in, const Sizes& n) {
  std::vector<Token> kinds(static_cast<size_t>(n.B * n.T), Token::Plain);
  if (!in.segments_BT.defined()) {
    return kinds;
  }
  const Tensor segments = in.segments_BT.to(at::kInt).contiguous();
  const int32_t* at = segments.const_data_ptr<int32_t>();
  for (int64_t b = 0; b < n.B; ++b) {
    int32_t present = -1;
    for (int64_t t = 0; t < n.T; ++t) {
      const int32_t segment = at[b * n.T + t];
      Token& kind = kinds[static_cast<size_t>(b * n.T + t)];
      if (segment < 0) {
        kind = Token::Padding;
      } else {
        kind = present >= 0 && segment != present ? Token::Restart : Token::Plain;
        present = segment;
      }
    }
  }
  return kinds;
}

template <class A>
void copy_matrix(const A* from, int64_t from_stride, A* to, int64_t to_stride, int64_t rows,
                 int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(from + r * from_stride, cols, to + r * to_stride);
  }
}

// The decays of a chunk and their products at the present level of borders.
template <class A>
struct ChunkDecays {
  A *a, *into, *out, *totals, *whole;
  int64_t width;
  ChunkDecays(Arena<A>& arena, int64_t Kp)
      : a(arena.take(kChunk * Kp)),
        into(arena.take(kChunk * Kp)),
        out(arena.take(kChunk * Kp)),
        totals(arena.take(kSubs * Kp)),
        whole(arena.take(Kp)),
        width(Kp) {}
  static int64_t elements(int64_t Kp) { return (3 * kChunk + kSubs + 1) * Kp + 5 * 32; }
  void compute(const A* g, int64_t g_stride, int64_t K, const Token* tokens, int64_t rows) {
    simd::run<Decays<A>>(Decays<A>{g, g_stride, K, tokens, rows, a, into, out, totals, width});
    chunk_decay(totals, whole, width);
  }
};

template <class S, class A>
void load_rows(const S* from, int64_t stride, int64_t width, const Token* tokens, int64_t rows,
               A scale, A* to, int64_t to_stride) {
  simd::run<LoadRows<S, A>>(
      LoadRows<S, A>{from, stride, width, tokens, rows, scale, to, to_stride});
}
template <class S, class A>
void store_rows(const A* from, int64_t from_stride, int64_t width, int64_t rows, S* to,
                int64_t stride) {
  simd::run<StoreRows<S, A>>(StoreRows<S, A>{from, from_stride, width, rows, to, stride});
}

// Asks for the rows of the chunk that comes next, which lie too far apart for the processor to
// guess.
template <class S>
void prefetch(const Heads<S>& x, int64_t b, int64_t t, int64_t h, int64_t T) {
  constexpr int64_t kLine = 64;
  if (t < 0) return;
  const int64_t width = x.tensor.size(3) * static_cast<int64_t>(sizeof(S));
  for (int64_t r = t; r < std::min(T, t + kChunk); ++r) {
    const char* row = reinterpret_cast<const char*>(x.at(b, r, h));
    for (int64_t i = 0; i < width; i += kLine) __builtin_prefetch(row + i, 0, 2);
  }
}

// scores[32 rows of queries, 32 of keys] and the like, all with row distance kChunk.
template <class A>
void block_scores(A* scores, const A* queries, const A* keys, int64_t query, int64_t key,
                  int64_t size, int64_t Kp) {
  block::gemm<A>(false, true, size, size, Kp, queries + query * Kp, Kp, keys + key * Kp, Kp,
                 scores + query * kChunk + key, kChunk, false);
}

template <class S, class A>
void forward_head(const Inputs& in, const Sizes& n, const std::vector<Token>& kinds,
                  const Outputs& result, int64_t b, int64_t g, Arena<A> arena) {
  const Heads<const S> q_in(in.q_BTHK), k_in(in.k_BTGK), v_in(in.v_BTGV);
  const Heads<const A> g_in(in.g_BTGK);
  const Heads<S> o_out(result.o_BTHV);
  const int64_t Kp = n.Kp, Vp = n.Vp;
  ChunkDecays<A> decays(arena, Kp);
  A* q = arena.take(kChunk * Kp);
  A* k = arena.take(kChunk * Kp);
  A* v = arena.take(kChunk * Vp);
  A* queries = arena.take(kChunk * Kp);  // scaled by the factors of a level
  A* keys = arena.take(kChunk * Kp);
  A* scores = arena.take(kChunk * kChunk);
  A* moved = arena.take(kSub * Kp);
  A* o = arena.take(kChunk * Vp);
  A* states = arena.take(n.group * Kp * Vp);
  A* final_states = result.state_BHKV.mutable_data_ptr<A>() + (b * n.H + g * n.group) * n.K * n.V;
  if (in.initial_state_BHKV.defined()) {
    const A* initial =
        in.initial_state_BHKV.const_data_ptr<A>() + (b * n.H + g * n.group) * n.K * n.V;
    for (int64_t j = 0; j < n.group; ++j) {
      copy_matrix(initial + j * n.K * n.V, n.V, states + j * Kp * Vp, Vp, n.K, n.V);
    }
  }
  for (int64_t c = 0; c < n.chunks; ++c) {
    const int64_t t = c * kChunk, rows = std::min(kChunk, n.T - t);
    const Token* tokens = kinds.data() + b * n.T + t;
    load_rows<S, A>(k_in.at(b, t, g), k_in.token, n.K, tokens, rows, A(1), k, Kp);
    load_rows<S, A>(v_in.at(b, t, g), v_in.token, n.V, tokens, rows, A(1), v, Vp);
    for (int64_t j = 0; j < n.group; ++j) {
      const int64_t h = g * n.group + j;
      A* state = states + j * Kp * Vp;
      decays.compute(g_in.at(b, t, g), g_in.token, n.K, tokens, rows);
      load_rows<S, A>(q_in.at(b, t, h), q_in.token, n.K, tokens, rows, static_cast<A>(in.scale), q,
                      Kp);
      for (int64_t s = 0; s < kSubs; ++s) {
        Diagonal<A> d;
        d.q = q + s * kSub * Kp;
        d.k = k + s * kSub * Kp;
        d.a = decays.a + s * kSub * Kp;
        d.width = Kp;
        d.scores = scores + s * kSub * (kChunk + 1);
        d.moved = moved;
        simd::run<DiagonalForward<A>>(d);
      }
      multiply(q, decays.into, queries, kChunk * Kp);
      multiply(k, decays.out, keys, kChunk * Kp);
      block_scores(scores, queries, keys, kSub, 0, kSub, Kp);
      block_scores(scores, queries, keys, 3 * kSub, 2 * kSub, kSub, Kp);
      prefetch(g_in, b, t + kChunk, g, n.T);
      into_second_level(queries, decays.totals, Kp);
      out_second_level(keys, decays.totals, Kp);
      block_scores(scores, queries, keys, 2 * kSub, 0, 2 * kSub, Kp);
      prefetch(k_in, b, t + kChunk, g, n.T);
      into_chunk_level(queries, decays.totals, Kp);
      out_chunk_level(keys, decays.totals, Kp);
      block::gemm<A>(false, false, kChunk, Vp, Kp, queries, Kp, state, Vp, o, Vp, false);
      prefetch(v_in, b, t + kChunk, g, n.T);
      block::gemm<A>(false, false, kChunk / 2, Vp, kChunk / 2, scores, kChunk, v, Vp, o, Vp, true);
      prefetch(q_in, b, t + kChunk, h, n.T);
      block::gemm<A>(false, false, kChunk / 2, Vp, kChunk, scores + kChunk / 2 * kChunk, kChunk, v,
                     Vp, o + kChunk / 2 * Vp, Vp, true);
      store_rows<S, A>(o, Vp, n.V, rows, o_out.at(b, t, h), o_out.token);
      simd::run<ScaleByRow<A>>(ScaleByRow<A>{state, decays.whole, Kp, Vp});
      block::gemm<A>(true, false, Kp, Vp, kChunk, keys, Kp, v, Vp, state, Vp, true);
    }
  }
  for (int64_t j = 0; j < n.group; ++j) {
    copy_matrix(states + j * Kp * Vp, Vp, final_states + j * n.K * n.V, n.V, n.K, n.V);
  }
}

template <class S, class A>
struct BackwardHead {
  const Inputs& in;
  const Sizes& n;
  const std::vector<Token>& kinds;
  const Tensor &do_BTHV, &dstate_BHKV;
  const Gradients& gradients;

  int64_t elements() const {
    const int64_t wide = kChunk * n.Kp, tall = kChunk * n.Vp, matrix = n.Kp * n.Vp;
    return ChunkDecays<A>::elements(n.Kp) + 10 * wide + 3 * kSub * n.Kp + n.Kp + 3 * tall +
           2 * kChunk * kChunk + n.group * matrix + 30 * 32;
  }

  void run(int64_t b, int64_t g, Arena<A> arena) const {
    const Heads<const S> q_in(in.q_BTHK), k_in(in.k_BTGK), v_in(in.v_BTGV);
    const Heads<const A> g_in(in.g_BTGK);
    const Heads<S> dq_out(gradients.q), dk_out(gradients.k), dv_out(gradients.v);
    const Heads<A> dg_out(gradients.g);
    const Heads<const S> do_in(do_BTHV.defined() ? do_BTHV : in.v_BTGV);
    const int64_t Kp = n.Kp, Vp = n.Vp, matrix = Kp * Vp;
    ChunkDecays<A> decays(arena, Kp);
    A* q = arena.take(kChunk * Kp);
    A* k = arena.take(kChunk * Kp);
    A* v = arena.take(kChunk * Vp);
    A* d_o = arena.take(kChunk * Vp);
    A* queries = arena.take(kChunk * Kp);
    A* keys = arena.take(kChunk * Kp);
    A* scores = arena.take(kChunk * kChunk);
    A* dscores = arena.take(kChunk * kChunk);
    A* moved = arena.take(kSub * Kp);
    A* dq_part = arena.take(kSub * Kp);
    A* dk_part = arena.take(kSub * Kp);
    A* product = arena.take(kChunk * Kp);
    A* dq = arena.take(kChunk * Kp);
    A* dk = arena.take(kChunk * Kp);
    A* dg = arena.take(kChunk * Kp);
    A* dv = arena.take(kChunk * Vp);
    A* through = arena.take(Kp);
    A* dstates = arena.take(n.group * matrix);  // transposed, [V, K], of the chunk's end

    // The states before every chunk, transposed.
    const Tensor kept = at::empty({n.group, n.chunks, matrix}, in.g_BTGK.options());
    A* before = kept.mutable_data_ptr<A>();
    const int64_t first_head = b * n.H + g * n.group;
    for (int64_t j = 0; j < n.group; ++j) {
      A* at = before + j * n.chunks * matrix;
      std::fill_n(at, n.chunks > 0 ? matrix : 0, A(0));
      if (in.initial_state_BHKV.defined() && n.chunks > 0) {
        block::transpose<A>(
            n.K, n.V, in.initial_state_BHKV.const_data_ptr<A>() + (first_head + j) * n.K * n.V, n.V,
            at, Kp);
      }
      if (dstate_BHKV.defined()) {
        block::transpose<A>(n.K, n.V,
                            dstate_BHKV.const_data_ptr<A>() + (first_head + j) * n.K * n.V, n.V,
                            dstates + j * matrix, Kp);
      }
    }
    for (int64_t c = 0; c + 1 < n.chunks; ++c) {
      const int64_t t = c * kChunk, rows = std::min(kChunk, n.T - t);
      const Token* tokens = kinds.data() + b * n.T + t;
      load_rows<S, A>(k_in.at(b, t, g), k_in.token, n.K, tokens, rows, A(1), k, Kp);
      load_rows<S, A>(v_in.at(b, t, g), v_in.token, n.V, tokens, rows, A(1), v, Vp);
      decays.compute(g_in.at(b, t, g), g_in.token, n.K, tokens, rows);
      multiply(k, decays.out, keys, kChunk * Kp);
      out_second_level(keys, decays.totals, Kp);
      out_chunk_level(keys, decays.totals, Kp);
      for (int64_t j = 0; j < n.group; ++j) {
        const A* from = before + (j * n.chunks + c) * matrix;
        A* to = before + (j * n.chunks + c + 1) * matrix;
        prefetch(k_in, b, t + kChunk, g, n.T);
        std::copy_n(from, matrix, to);
        prefetch(v_in, b, t + kChunk, g, n.T);
        scale_rows(to, decays.whole, Vp, Kp);
        prefetch(g_in, b, t + kChunk, g, n.T);
        block::gemm<A>(true, false, Vp, Kp, kChunk, v, Vp, keys, Kp, to, Kp, true);
      }
    }

    for (int64_t c = n.chunks - 1; c >= 0; --c) {
      const int64_t t = c * kChunk, rows = std::min(kChunk, n.T - t);
      const Token* tokens = kinds.data() + b * n.T + t;
      load_rows<S, A>(k_in.at(b, t, g), k_in.token, n.K, tokens, rows, A(1), k, Kp);
      load_rows<S, A>(v_in.at(b, t, g), v_in.token, n.V, tokens, rows, A(1), v, Vp);
      std::fill_n(dk, kChunk * Kp, A(0));
      std::fill_n(dg, kChunk * Kp, A(0));
      for (int64_t j = 0; j < n.group; ++j) {
        const int64_t h = g * n.group + j;
        A* dstate = dstates + j * matrix;
        const A* state_VK = before + (j * n.chunks + c) * matrix;
        decays.compute(g_in.at(b, t, g), g_in.token, n.K, tokens, rows);
        load_rows<S, A>(q_in.at(b, t, h), q_in.token, n.K, tokens, rows, static_cast<A>(in.scale),
                        q, Kp);
        if (do_BTHV.defined()) {
          load_rows<S, A>(do_in.at(b, t, h), do_in.token, n.V, tokens, rows, A(1), d_o, Vp);
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
                                                     q + query * Kp, dq + query * Kp,
                                                     dg + query * Kp, size, Kp});
          block::gemm<A>(true, false, size, Kp, size, dblock, kChunk, queries + query * Kp, Kp,
                         product, Kp, false);
          simd::run<AddToKeys<A>>(AddToKeys<A>{product, decays.out + key * Kp, k + key * Kp,
                                               dk + key * Kp, dg + key * Kp, size, Kp});
        };
        multiply(q, decays.into, queries, kChunk * Kp);
        multiply(k, decays.out, keys, kChunk * Kp);
        prefetch(g_in, b, t - kChunk, g, n.T);
        level(kSub, 0, kSub);
        prefetch(k_in, b, t - kChunk, g, n.T);
        level(3 * kSub, 2 * kSub, kSub);
        for (A* rows_into : {queries, decays.into}) {
          into_second_level(rows_into, decays.totals, Kp);
        }
        for (A* rows_out : {keys, decays.out}) {
          out_second_level(rows_out, decays.totals, Kp);
        }
        prefetch(v_in, b, t - kChunk, g, n.T);
        level(2 * kSub, 0, 2 * kSub);
        if (do_BTHV.defined()) prefetch(do_in, b, t - kChunk, h, n.T);

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

        prefetch(q_in, b, t - kChunk, h, n.T);
        // dv = scores^T do + keys D
        block::gemm<A>(false, true, kChunk, Vp, Kp, keys, Kp, dstate, Kp, dv, Vp, j > 0);
        block::gemm<A>(true, false, kChunk / 2, Vp, kChunk, scores, kChunk, d_o, Vp, dv, Vp, true);
        block::gemm<A>(true, false, kChunk / 2, Vp, kChunk / 2, scores + kChunk / 2 * (kChunk + 1),
                       kChunk, d_o + kChunk / 2 * Vp, Vp, dv + kChunk / 2 * Vp, Vp, true);

        scale_rows(dstate, decays.whole, Vp, Kp);
        block::gemm<A>(true, false, Vp, Kp, kChunk, d_o, Vp, queries, Kp, dstate, Kp, true);

        load_rows<A, A>(dq, Kp, Kp, tokens, rows, static_cast<A>(in.scale), dq, Kp);
        store_rows<S, A>(dq, Kp, n.K, rows, dq_out.at(b, t, h), dq_out.token);
      }
      // Decay zero has gradient zero (the sums above leave its rounding errors); padding has none.
      for (int64_t r = 0; r < rows; ++r) {
        const A* a = decays.a + r * Kp;
        for (int64_t i = 0; i < Kp; ++i) {
          dg[r * Kp + i] = a[i] > 0 && tokens[r] != Token::Padding ? dg[r * Kp + i] : A(0);
        }
      }
      store_rows<S, A>(dk, Kp, n.K, rows, dk_out.at(b, t, g), dk_out.token);
      store_rows<S, A>(dv, Vp, n.V, rows, dv_out.at(b, t, g), dv_out.token);
      store_rows<A, A>(dg, Kp, n.K, rows, dg_out.at(b, t, g), dg_out.token);
    }
    if (gradients.initial_state.defined()) {
      A* to = gradients.initial_state.mutable_data_ptr<A>() + first_head * n.K * n.V;
      for (int64_t j = 0; j < n.group; ++j) {
        block::transpose<A>(n.V, n.K, dstates + j * matrix, Kp, to + j * n.K * n.V, n.V);
      }
    }
  }
};

// The recurrence of one head: S = a S + k v^T, o = scale q S.
template <class S, class A>
struct Recurrence {
  const S* q;
  const S* k;
  const S* v;
  const A* g;
  S* o;
  int64_t q_stride, k_stride, v_stride, g_stride, o_stride;
  const Token* tokens;
  A* state;
  A* sum;  // [V]
  int64_t T, K, V;
  A scale;

  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const Recurrence& p) {
    using Vector = simd::Vec<A, Bytes>;
    for (int64_t t = 0; t < p.T; ++t) {
      S* o = p.o + t * p.o_stride;
      const S* v = p.v + t * p.v_stride;
      std::fill_n(p.sum, p.V, A(0));
      for (int64_t i = 0; p.tokens[t] != Token::Padding && i < p.K; ++i) {
        const A a = p.tokens[t] == Token::Restart ? A(0) : std::exp(p.g[t * p.g_stride + i]);
        const A k = static_cast<A>(p.k[t * p.k_stride + i]);
        const A q = static_cast<A>(p.q[t * p.q_stride + i]) * p.scale;
        const Vector av = simd::broadcast_at<Vector>(&a), kv = simd::broadcast_at<Vector>(&k),
                     qv = simd::broadcast_at<Vector>(&q);
        A* state = p.state + i * p.V;
        simd::sweep<Vector>(
            p.V, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
              const Vector x =
                  simd::load<Vector>(state + j, lanes) * av + simd::load<Vector>(v + j, lanes) * kv;
              simd::store(state + j, x, lanes);
              simd::store(p.sum + j,
                          static_cast<Vector>(simd::load<Vector>(p.sum + j, lanes) + x * qv),
                          lanes);
            });
      }
      simd::sweep<Vector>(
          p.V, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
            simd::store(o + j, simd::load<Vector>(p.sum + j, lanes), lanes);
          });
    }
  }
};

template <class S, class A>
void recur(const Inputs& in, const Sizes& n, const std::vector<Token>& kinds, const Outputs& result,
           int64_t b, int64_t g) {
  const Heads<const S> q(in.q_BTHK), k(in.k_BTGK), v(in.v_BTGV);
  const Heads<const A> decay(in.g_BTGK);
  const Heads<S> o(result.o_BTHV);
  std::vector<A> sum(static_cast<size_t>(n.V));
  for (int64_t h = g * n.group; h < (g + 1) * n.group; ++h) {
    const int64_t at = (b * n.H + h) * n.K * n.V;
    A* state = result.state_BHKV.mutable_data_ptr<A>() + at;
    if (in.initial_state_BHKV.defined()) {
      std::copy_n(in.initial_state_BHKV.const_data_ptr<A>() + at, n.K * n.V, state);
    } else {
      std::fill_n(state, n.K * n.V, A(0));
    }
    Recurrence<S, A> p{q.at(b, 0, h),
                       k.at(b, 0, g),
                       v.at(b, 0, g),
                       decay.at(b, 0, g),
                       o.at(b, 0, h),
                       q.token,
                       k.token,
                       v.token,
                       decay.token,
                       o.token,
                       kinds.data() + b * n.T,
                       state,
                       sum.data(),
                       n.T,
                       n.K,
                       n.V,
                       static_cast<A>(in.scale)};
    simd::run<Recurrence<S, A>>(p);
  }
}

// body(row, key/value head) for all of them, on the threads of LibTorch's pool.
template <class Body>
void for_heads(const Sizes& n, const Body& body) {
  at::parallel_for(0, n.B * n.G, 1, [&](int64_t begin, int64_t end) {
    const FlushSubnormals flush;
    for (int64_t i = begin; i < end; ++i) {
      body(i / n.G, i % n.G);
    }
  });
}

Outputs empty_outputs(const Inputs& in, const Sizes& n) {
  return {at::empty({n.B, n.T, n.H, n.V}, in.v_BTGV.options()),
          at::empty({n.B, n.H, n.K, n.V}, in.g_BTGK.options())};
}

}  // namespace gla_cpu_detail

Outputs forward(const Inputs& in) {
  using namespace gla_cpu_detail;
  const Sizes n(in);
  const Outputs result = empty_outputs(in, n);
  const std::vector<Token> kinds = token_kinds(in, n);
  with_types(in.q_BTHK, [&]<class S, class A>(S, A) {
    const int64_t elements = ChunkDecays<A>::elements(n.Kp) + (4 * kChunk + kSub) * n.Kp +
                             2 * kChunk * n.Vp + kChunk * kChunk + n.group * n.Kp * n.Vp + 16 * 32;
    for_heads(n, [&](int64_t b, int64_t g) {
      forward_head<S, A>(in, n, kinds, result, b, g, Arena<A>(elements));
    });
  });
  return result;
}

Outputs forward_by_tokens(const Inputs& in) {
  using namespace gla_cpu_detail;
  const Sizes n(in);
  const Outputs result = empty_outputs(in, n);
  const std::vector<Token> kinds = token_kinds(in, n);
  with_types(in.q_BTHK, [&]<class S, class A>(S, A) {
    for_heads(n, [&](int64_t b, int64_t g) { recur<S, A>(in, n, kinds, result, b, g); });
  });
  return result;
}

Gradients backward(const Tensor& do_BTHV, const Tensor& dstate_BHKV, const Inputs& in,
                   bool want_initial_state) {
  using namespace gla_cpu_detail;
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
    const BackwardHead<S, A> head{in, n, kinds, do_BTHV, dstate_BHKV, gradients};
    for_heads(n, [&](int64_t b, int64_t g) { head.run(b, g, Arena<A>(head.elements())); });
  });
  return gradients;
}

}  // namespace strata::ops::gla_cpu
