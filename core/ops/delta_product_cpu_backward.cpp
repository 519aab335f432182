// Gradients of one chunk, with S the state before it, D the gradient of the state after it,
// U = update = inverse (beta rest), rest = V - exp(G) K S, P = masked q K^T, and what the forward
// computes: o = exp(G) q S + P U, S' = exp(G_L) S + (K exp(G_L - G))^T U.
//
//   dU     = P^T do + (K exp(G_L - G)) D           Y = inverse^T dU     Z = -beta exp(G) Y
//   dv     = beta Y                                dA = -strict_lower(Y U^T),  M = dA decayed
//   dq     = exp(G) do S^T + dP K                  dP = masked do U^T
//   plus   = Z S^T + beta (M K)
//   minus  = dP^T q + exp(G_L - G) (U D^T) + M^T (beta K)
//   dk     = plus + minus
//   dbeta  = Y . rest + (M K) . k
//   dG     = q . dq  (per token)  + k . plus - k . minus   (per micro-step)
//   dG_L  += exp(G_L) <S, D> + sum over rows of k . exp(G_L - G) (U D^T)
//   D     <- exp(G_L) D + (q exp(G))^T do + K^T Z
//   dgate  = sum of dG over the chunk's tokens from here on
// The inverse itself never needs a gradient: dA = -(inverse^T dU) U^T.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/delta_product_chunk.h"

namespace strata::ops::delta_cpu {

namespace delta_product_cpu_backward_detail {

template <class S, class A>
struct Task {
  Grid<const S> q, k, v, grad_o;
  Grid<const A> gate, beta;
  Grid<S> dq, dk, dv;
  Grid<A> dgate, dbeta;
  const Row* row = nullptr;
  int64_t b = 0, h = 0;
  Sizes sizes{};
  A* grad_state = nullptr;  // [K, V]: D in and out
  const A* inverses = nullptr;
  const A* states = nullptr;
  int64_t next_state = 0;
};

// Working memory of one task.
template <class A>
struct Buffers {
  // Of kStateEvery chunks, from their recomputation: states before, keys, rests, updates.
  A *states, *ks, *rests, *updates, *betas;
  A *v, *weighted, *faded, *q, *grad_o, *scores, *grad_scores, *grad_update, *y, *plus, *minus;
  A *product, *system, *grad_q, *between, *from_start, *to_end, *kin;

  static int64_t elements(const Sizes& s) {
    Buffers none{};
    int64_t total = 0;
    none.each(s, [&](A*&, int64_t n) { total += Scratch<A>::size(n); });
    return total;
  }
  template <class F>
  void each(const Sizes& s, const F& f) {
    const int64_t L = s.most(), C = s.most_tokens, E = kStateEvery;
    f(states, (E + 1) * s.K * s.V);
    f(ks, E * L * s.K);
    f(rests, E * L * s.V);
    f(updates, E * L * s.V);
    f(betas, E * L);
    f(v, L * s.V);
    f(weighted, L * s.V);
    f(faded, L * s.K);
    f(q, C * s.K);
    f(grad_o, C * s.V);
    f(scores, C * L);
    f(grad_scores, C * L);
    f(grad_update, L * s.V);
    f(y, L * s.V);
    f(plus, L * s.K);
    f(minus, L * s.K);
    f(product, L * s.K);
    f(system, L * L);
    f(grad_q, C * s.K);
    f(between, C * C);
    f(from_start, C);
    f(to_end, C);
    f(kin, L);
  }
};

template <class A>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Task<S, A>& task) {
    using V = simd::Vec<A, Bytes>;
    const Sizes& s = task.sizes;
    Scratch<A> scratch(Buffers<A>::elements(s));
    Buffers<A> buffers;
    buffers.each(s, [&](A*& p, int64_t n) { p = scratch.take(n); });
    std::vector<double> sums(static_cast<size_t>(s.most_tokens));
    std::vector<double> grad_sums(static_cast<size_t>(s.most_tokens));
    Decay<A> d;
    d.on = task.gate.data != nullptr;
    d.between = buffers.between;
    d.from_start = buffers.from_start;
    d.to_end = buffers.to_end;
    d.sums = sums.data();
    d.most = s.most_tokens;

    const int64_t chunks = static_cast<int64_t>(task.row->chunks.size());
    for (int64_t group = (chunks - 1) / kStateEvery; group >= 0 && chunks > 0; --group) {
      const int64_t first = group * kStateEvery, last = std::min(chunks, first + kStateEvery);
      std::copy_n(task.states + group * task.next_state, s.K * s.V, buffers.states);
      for (int64_t c = first; c < last; ++c) replay<V>(task, c, c - first, d, buffers);
      for (int64_t c = last - 1; c >= first; --c) {
        chunk<V>(task, c, c - first, d, buffers, grad_sums.data());
      }
    }
  }

  // The forward of chunk c, number i of its group, without its outputs.
  template <class V, class S>
  [[gnu::always_inline]] static inline void replay(const Task<S, A>& task, int64_t c, int64_t i,
                                                   Decay<A>& d, const Buffers<A>& m) {
    const Sizes& s = task.sizes;
    const Chunk& chunk = task.row->chunks[static_cast<size_t>(c)];
    const int64_t* tokens = task.row->tokens.data() + chunk.first;
    const int64_t L = chunk.count * s.steps, most = s.most();
    A* k = m.ks + i * most * s.K;
    A* update = m.updates + i * most * s.V;
    A* state = m.states + i * s.K * s.V;
    A* beta = m.betas + i * most;
    load_rows<V>(task.k, task.b, task.h, tokens, chunk.count, s.steps, s.K, k);
    load_rows<V>(task.v, task.b, task.h, tokens, chunk.count, s.steps, s.V, m.v);
    for (int64_t r = 0; r < L; ++r) {
      beta[r] = *task.beta.at(task.b, tokens[r / s.steps] * s.steps + r % s.steps, task.h);
    }
    fill_decay<V>(d, task.gate, task.b, task.h, tokens, chunk.count);
    chunk_update<V>(k, m.v, state, beta, task.inverses + chunk.inverse, d, s, chunk.restart,
                    m.rests + i * most * s.V, m.weighted, update);
    if (i + 1 < kStateEvery) {
      A* next = state + s.K * s.V;
      std::copy_n(state, s.K * s.V, next);
      chunk_state<V>(k, update, d, s, chunk.restart, m.faded, next);
    }
  }

  template <class V, class S>
  [[gnu::always_inline]] static inline void chunk(const Task<S, A>& task, int64_t c, int64_t i,
                                                  Decay<A>& d, const Buffers<A>& m,
                                                  double* grad_sums) {
    const Sizes& s = task.sizes;
    const Chunk& chunk = task.row->chunks[static_cast<size_t>(c)];
    const int64_t* tokens = task.row->tokens.data() + chunk.first;
    const int64_t n = s.steps, count = chunk.count, L = count * n, most = s.most();
    const A* k = m.ks + i * most * s.K;
    const A* rest = m.rests + i * most * s.V;
    const A* update = m.updates + i * most * s.V;
    const A* state = m.states + i * s.K * s.V;
    const A* beta = m.betas + i * most;
    const A* inverse = task.inverses + chunk.inverse;
    A* D = task.grad_state;
    load_rows<V>(task.q, task.b, task.h, tokens, count, 1, s.K, m.q);
    load_rows<V>(task.grad_o, task.b, task.h, tokens, count, 1, s.V, m.grad_o);
    fill_decay<V>(d, task.gate, task.b, task.h, tokens, count);
    std::fill_n(grad_sums, count, 0.0);

    // dU
    block::gemm(false, true, count, L, s.K, m.q, s.K, k, s.K, m.scores, L, false);
    mask_tokens(m.scores, d, n);
    if (d.on) {
      for (int64_t r = 0; r < L; ++r) {
        scale_row<V>(k + r * s.K, d.to_end[r / n], m.faded + r * s.K, s.K);
      }
    }
    block::gemm(false, false, L, s.V, s.K, d.on ? m.faded : k, s.K, D, s.V, m.grad_update, s.V,
                false);
    block::gemm(true, false, L, s.V, count, m.scores, L, m.grad_o, s.V, m.grad_update, s.V, true);
    upper_times(inverse, L, m.grad_update, m.y, s.V);

    // minus, without what comes from the triangular system; dq
    block::gemm(false, true, L, s.K, s.V, update, s.V, D, s.V, m.minus, s.K, false);
    if (d.on) {
      double& end = grad_sums[count - 1];
      for (int64_t r = 0; r < L; ++r) {
        A* row = m.minus + r * s.K;
        scale_row<V>(row, d.to_end[r / n], row, s.K);
        end += static_cast<double>(dot<V>(k + r * s.K, row, s.K));
      }
      if (!chunk.restart) {
        end += static_cast<double>(d.whole() * dot<V>(state, static_cast<const A*>(D), s.K * s.V));
      }
    }
    block::gemm(false, true, count, L, s.V, m.grad_o, s.V, update, s.V, m.grad_scores, L, false);
    mask_tokens(m.grad_scores, d, n);
    block::gemm(true, false, L, s.K, count, m.grad_scores, L, m.q, s.K, m.minus, s.K, true);
    if (chunk.restart) {
      block::gemm(false, false, count, s.K, L, m.grad_scores, L, k, s.K, m.grad_q, s.K, false);
    } else {
      block::gemm(false, true, count, s.K, s.V, m.grad_o, s.V, state, s.V, m.grad_q, s.K, false);
      if (d.on) {
        for (int64_t t = 0; t < count; ++t) {
          scale_row<V>(m.grad_q + t * s.K, d.from_start[t], m.grad_q + t * s.K, s.K);
        }
      }
      block::gemm(false, false, count, s.K, L, m.grad_scores, L, k, s.K, m.grad_q, s.K, true);
    }
    store_rows<V>(m.grad_q, task.dq, task.b, task.h, tokens, count, 1, s.K);
    if (d.on) {
      for (int64_t t = 0; t < count; ++t) {
        grad_sums[t] += static_cast<double>(dot<V>(m.q + t * s.K, m.grad_q + t * s.K, s.K));
      }
    }

    // The triangular system: M = -strict_lower(y update^T) decayed, M K, M^T (beta K).
    lower_outer(m.y, update, L, s.V, m.system);
    mask_strict<V>(m.system, static_cast<const A*>(nullptr), d, n);
    lower_times(m.system, L, k, m.product, s.K);  // -M K
    for (int64_t r = 0; r < L; ++r) {
      scale_row<V>(k + r * s.K, -beta[r], m.faded + r * s.K, s.K);
    }
    upper_times(m.system, L, m.faded, m.minus, s.K, true);

    // dbeta, plus, dv; y becomes Z
    for (int64_t r = 0; r < L; ++r) {
      const int64_t t = r / n;
      A* y = m.y + r * s.V;
      A* product = m.product + r * s.K;
      *task.dbeta.at(task.b, tokens[t] * n + r % n, task.h) =
          dot<V>(static_cast<const A*>(y), rest + r * s.V, s.V) -
          dot<V>(static_cast<const A*>(product), k + r * s.K, s.K);
      scale_row<V>(product, -beta[r], m.plus + r * s.K, s.K);
      scale_row<V>(y, beta[r], m.grad_update + r * s.V, s.V);
      scale_row<V>(y, -beta[r] * (d.on ? d.from_start[t] : A(1)), y, s.V);
    }
    store_rows<V>(m.grad_update, task.dv, task.b, task.h, tokens, count, n, s.V);
    if (!chunk.restart) {
      block::gemm(false, true, L, s.K, s.V, m.y, s.V, state, s.V, m.plus, s.K, true);
    }
    if (d.on) {
      for (int64_t r = 0; r < L; ++r) {
        const A* key = k + r * s.K;
        grad_sums[r / n] +=
            static_cast<double>(dot<V>(key, static_cast<const A*>(m.plus + r * s.K), s.K)) -
            static_cast<double>(dot<V>(key, static_cast<const A*>(m.minus + r * s.K), s.K));
      }
    }
    simd::sweep<V>(
        L * s.K, [&](int64_t e, auto lanes) __attribute__((always_inline)) {
          simd::store(
              m.plus + e,
              static_cast<V>(simd::load<V>(m.plus + e, lanes) + simd::load<V>(m.minus + e, lanes)),
              lanes);
        });
    store_rows<V>(m.plus, task.dk, task.b, task.h, tokens, count, n, s.K);
    if (d.on) {
      double sum = 0;
      for (int64_t t = count - 1; t >= 0; --t) {
        sum += grad_sums[t];
        *task.dgate.at(task.b, tokens[t], task.h) = static_cast<A>(sum);
      }
    }

    // D of the chunk before; a document that ended there reached no state of this one.
    if (chunk.restart) {
      std::fill_n(D, s.K * s.V, A(0));
      return;
    }
    if (d.on) {
      for (int64_t t = 0; t < count; ++t) {
        scale_row<V>(m.q + t * s.K, d.from_start[t], m.q + t * s.K, s.K);
      }
      scale_row<V>(D, d.whole(), D, s.K * s.V);
    }
    block::gemm(true, false, s.K, s.V, count, m.q, s.K, m.grad_o, s.V, D, s.V, true);
    block::gemm(true, false, s.K, s.V, L, k, s.K, m.y, s.V, D, s.V, true);
  }
};

}  // namespace delta_product_cpu_backward_detail

Gradients backward(const Tensor& do_BTHV, const Tensor& dstate_BHKV, const DeltaProductInputs& in,
                   const Cut& cut, const Kept& kept) {
  using namespace delta_product_cpu_backward_detail;
  const int64_t B = in.q_BTHK.size(0), T = in.q_BTHK.size(1), H = in.q_BTHK.size(2);
  const int64_t K = in.q_BTHK.size(3), V = in.v_BMHV.size(3);
  const int64_t steps = T > 0 ? in.k_BMHK.size(1) / T : 1;
  const Sizes sizes{
      steps, K, V,
      std::min<int64_t>(std::max<int64_t>(1, kDeltaChunk / steps), std::max<int64_t>(1, T))};
  const auto fresh = [&](const Tensor& like) {
    return cut.padded ? at::zeros(like.sizes(), like.options())
                      : at::empty(like.sizes(), like.options());
  };
  Gradients out;
  out.q = fresh(in.q_BTHK);
  out.k = fresh(in.k_BMHK);
  out.v = fresh(in.v_BMHV);
  out.beta = fresh(in.beta_BMH);
  if (in.gate_BTH.defined()) out.gate = fresh(in.gate_BTH);
  out.initial_state = dstate_BHKV.defined() ? dstate_BHKV.clone(at::MemoryFormat::Contiguous)
                                            : at::zeros({B, H, K, V}, in.beta_BMH.options());
  Tensor grad_o = do_BTHV;
  if (!grad_o.defined()) grad_o = at::zeros({B, T, H, V}, in.v_BMHV.options());
  if (grad_o.stride(3) != 1) grad_o = grad_o.contiguous();
  with_types(in.v_BMHV, [&]<class S, class A>(S, A) {
    at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Task<S, A> task;
        task.b = i / H;
        task.h = i % H;
        task.q = read_grid<S>(in.q_BTHK);
        task.k = read_grid<S>(in.k_BMHK);
        task.v = read_grid<S>(in.v_BMHV);
        task.grad_o = read_grid<S>(grad_o);
        task.gate = read_grid<A>(in.gate_BTH);
        task.beta = read_grid<A>(in.beta_BMH);
        task.dq = write_grid<S>(out.q);
        task.dk = write_grid<S>(out.k);
        task.dv = write_grid<S>(out.v);
        task.dgate = write_grid<A>(out.gate);
        task.dbeta = write_grid<A>(out.beta);
        task.row = &cut.rows[static_cast<size_t>(task.b)];
        task.sizes = sizes;
        task.grad_state = out.initial_state.mutable_data_ptr<A>() + i * K * V;
        task.inverses =
            kept.inverses.const_data_ptr<A>() + task.row->before * H + task.h * task.row->inverses;
        task.states = kept.states.const_data_ptr<A>() + (task.row->states * H + task.h) * K * V;
        task.next_state = H * K * V;
        simd::run<Backward<A>>(task);
      }
    });
  });
  return out;
}

}  // namespace strata::ops::delta_cpu
