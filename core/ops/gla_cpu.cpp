// Sums run in an order that depends on shapes alone.
#include "core/ops/gla_cpu.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "core/ops/cpu_rows.h"
#include "core/ops/gla_walk.h"

namespace strata::ops::gla_cpu {

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

namespace gla_cpu_detail {

// One task: some heads of one row.
template <class S, class A>
struct Forward {
  const Inputs& in;
  const Sizes& n;
  const Token* tokens;  // of the row
  const Heads<const S> q_in, k_in, v_in;
  const Heads<const A> g_in;
  const Heads<S> o_out;
  const int64_t b, Kp, Vp;
  Arena<A> arena;
  ChunkDecays<A> decays;
  A *q, *k, *v;
  A *queries, *keys;  // scaled by the factors of a level
  A *scores, *moved, *o;
  A* states;  // [heads, group, Kp, Vp]

  static int64_t elements(const Sizes& n, int64_t heads) {
    return ChunkDecays<A>::elements(n.Kp) + (4 * kChunk + kSub) * n.Kp + 2 * kChunk * n.Vp +
           kChunk * kChunk + heads * n.group * n.Kp * n.Vp + 16 * 32;
  }
  Forward(const Inputs& inputs, const Sizes& sizes, const std::vector<Token>& kinds,
          const Outputs& result, int64_t row, int64_t heads)
      : in(inputs),
        n(sizes),
        tokens(kinds.data() + row * n.T),
        q_in(in.q_BTHK),
        k_in(in.k_BTGK),
        v_in(in.v_BTGV),
        g_in(in.g_BTGK),
        o_out(result.o_BTHV),
        b(row),
        Kp(n.Kp),
        Vp(n.Vp),
        arena(elements(n, heads)),
        decays(arena, Kp),
        q(arena.take(kChunk * Kp)),
        k(arena.take(kChunk * Kp)),
        v(arena.take(kChunk * Vp)),
        queries(arena.take(kChunk * Kp)),
        keys(arena.take(kChunk * Kp)),
        scores(arena.take(kChunk * kChunk)),
        moved(arena.take(kSub * Kp)),
        o(arena.take(kChunk * Vp)),
        states(arena.take(heads * n.group * Kp * Vp)) {}

  void run(const Outputs& result, int64_t first, int64_t heads) {
    const int64_t count = heads * n.group, matrix = n.K * n.V;
    const int64_t at = b * n.H + first * n.group;  // the first query head's matrix
    const auto copy_states = [&](const A* from, int64_t from_stride, int64_t from_matrix, A* to,
                                 int64_t to_stride, int64_t to_matrix) {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t r = 0; r < n.K; ++r) {
          std::copy_n(from + i * from_matrix + r * from_stride, n.V,
                      to + i * to_matrix + r * to_stride);
        }
      }
    };
    if (in.initial_state_BHKV.defined()) {
      copy_states(in.initial_state_BHKV.const_data_ptr<A>() + at * matrix, n.V, matrix, states, Vp,
                  Kp * Vp);
    }
    for (int64_t turn = 0; turn < n.turns; ++turn) {
      if (turn > 0) {
        A* kept = result.kept_LBHKV.mutable_data_ptr<A>() + (turn - 1) * n.B * n.H * matrix;
        copy_states(states, Vp, Kp * Vp, kept + at * matrix, n.V, matrix);
      }
      for (int64_t i = 0; i < heads; ++i) {
        const int64_t last = std::min(n.chunks, (turn + 1) * kTurn);
        for (int64_t c = turn * kTurn; c < last; ++c) {
          chunk(first + i, c * kChunk, last * kChunk, states + i * n.group * Kp * Vp);
        }
      }
    }
    copy_states(states, Vp, Kp * Vp, result.state_BHKV.mutable_data_ptr<A>() + at * matrix, n.V,
                matrix);
  }

  // The chunk at token t; the next ones up to `last` are this head's too.
  void chunk(int64_t g, int64_t t, int64_t last, A* head_states) {
    const int64_t rows = std::min(kChunk, n.T - t), next = t + kChunk;
    last = std::min(last, n.T);
    load_rows<S, A>(k_in.at(b, t, g), k_in.token, n.K, tokens + t, rows, A(1), k, Kp);
    load_rows<S, A>(v_in.at(b, t, g), v_in.token, n.V, tokens + t, rows, A(1), v, Vp);
    for (int64_t j = 0; j < n.group; ++j) {
      const int64_t h = g * n.group + j;
      A* state = head_states + j * Kp * Vp;
      decays.compute(g_in.at(b, t, g), g_in.token, n.K, tokens + t, rows);
      load_rows<S, A>(q_in.at(b, t, h), q_in.token, n.K, tokens + t, rows, static_cast<A>(in.scale),
                      q, Kp);
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
      prefetch(g_in, b, next, g, 0, last);
      into_second_level(queries, decays.totals, Kp);
      out_second_level(keys, decays.totals, Kp);
      block_scores(scores, queries, keys, 2 * kSub, 0, 2 * kSub, Kp);
      prefetch(k_in, b, next, g, 0, last);
      into_chunk_level(queries, decays.totals, Kp);
      out_chunk_level(keys, decays.totals, Kp);
      block::gemm<A>(false, false, kChunk, Vp, Kp, queries, Kp, state, Vp, o, Vp, false);
      prefetch(v_in, b, next, g, 0, last);
      block::gemm<A>(false, false, kChunk / 2, Vp, kChunk / 2, scores, kChunk, v, Vp, o, Vp, true);
      prefetch(q_in, b, next, h, 0, last);
      block::gemm<A>(false, false, kChunk / 2, Vp, kChunk, scores + kChunk / 2 * kChunk, kChunk, v,
                     Vp, o + kChunk / 2 * Vp, Vp, true);
      store_rows<S, A>(o, Vp, n.V, rows, o_out.at(b, t, h), o_out.token);
      simd::run<ScaleByRow<A>>(ScaleByRow<A>{state, decays.whole, Kp, Vp});
      block::gemm<A>(true, false, Kp, Vp, kChunk, keys, Kp, v, Vp, state, Vp, true);
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

}  // namespace gla_cpu_detail

Outputs forward(const Inputs& in) {
  using namespace gla_cpu_detail;
  const Sizes n(in);
  const auto acc = in.g_BTGK.options();
  const Outputs result{at::empty({n.B, n.T, n.H, n.V}, in.v_BTGV.options()),
                       at::empty({n.B, n.H, n.K, n.V}, acc),
                       at::empty({std::max<int64_t>(0, n.turns - 1), n.B, n.H, n.K, n.V}, acc)};
  const std::vector<Token> kinds = token_kinds(in, n);
  with_types(in.q_BTHK, [&]<class S, class A>(S, A) {
    for_heads(n, [&](int64_t b, int64_t first, int64_t heads) {
      Forward<S, A>(in, n, kinds, result, b, heads).run(result, first, heads);
    });
  });
  return result;
}

Outputs forward_by_tokens(const Inputs& in) {
  using namespace gla_cpu_detail;
  const Sizes n(in);
  const Outputs result{at::empty({n.B, n.T, n.H, n.V}, in.v_BTGV.options()),
                       at::empty({n.B, n.H, n.K, n.V}, in.g_BTGK.options()),
                       {}};
  const std::vector<Token> kinds = token_kinds(in, n);
  with_types(in.q_BTHK, [&]<class S, class A>(S, A) {
    for_heads(n, [&](int64_t b, int64_t first, int64_t heads) {
      for (int64_t g = first; g < first + heads; ++g) {
        recur<S, A>(in, n, kinds, result, b, g);
      }
    });
  });
  return result;
}

}  // namespace strata::ops::gla_cpu
