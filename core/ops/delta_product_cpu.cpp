#include "core/ops/delta_product_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/delta_product_chunk.h"

namespace strata::ops::delta_cpu {

Cut cut(const Tensor& segments_BT, int64_t B, int64_t T, int64_t steps) {
  const int64_t most = std::max<int64_t>(1, kDeltaChunk / steps);
  Cut out;
  out.rows.resize(static_cast<size_t>(B));
  const int32_t* segments = segments_BT.defined() ? segments_BT.const_data_ptr<int32_t>() : nullptr;
  for (int64_t b = 0; b < B; ++b) {
    Row& row = out.rows[static_cast<size_t>(b)];
    row.before = out.inverses;
    row.states = out.states;
    row.tokens.reserve(static_cast<size_t>(T));
    int32_t document = -1;
    for (int64_t t = 0; t < T; ++t) {
      const int32_t segment = segments != nullptr ? segments[b * T + t] : 0;
      if (segment == -1) {
        out.padded = true;
        continue;
      }
      const bool changed = document != -1 && segment != document;
      if (row.chunks.empty() || changed || row.chunks.back().count == most) {
        row.chunks.push_back({static_cast<int64_t>(row.tokens.size()), 0, changed, 0});
      }
      document = segment;
      row.tokens.push_back(t);
      ++row.chunks.back().count;
    }
    for (Chunk& chunk : row.chunks) {
      chunk.inverse = row.inverses;
      row.inverses += chunk.count * steps * chunk.count * steps;
    }
    out.inverses += row.inverses;
    out.states += (static_cast<int64_t>(row.chunks.size()) + kStateEvery - 1) / kStateEvery;
  }
  return out;
}

namespace delta_product_cpu_detail {

template <class S, class A>
struct Task {
  Grid<const S> q, k, v;
  Grid<const A> gate, beta;
  Grid<S> o;
  const Row* row = nullptr;
  int64_t b = 0, h = 0;
  Sizes sizes{};
  A* state = nullptr;     // [K, V] in and out
  A* inverses = nullptr;  // of this row and head
  A* states = nullptr;    // kept ones, null: none
  int64_t next_state = 0;
};

int64_t scratch_elements(const Sizes& s) {
  const auto size = [](int64_t n) { return Scratch<double>::size(n); };
  const int64_t L = s.most(), C = s.most_tokens;
  return 2 * size(L * s.K) + 3 * size(L * s.V) + size(C * s.K) + size(C * s.V) + 3 * size(L * L) +
         size(C * L) + size(C * C) + 3 * size(L) + 2 * size(C);
}

template <class A>
struct Forward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Task<S, A>& task) {
    using V = simd::Vec<A, Bytes>;
    const Sizes& s = task.sizes;
    const int64_t L_most = s.most(), C = s.most_tokens;
    Scratch<A> scratch(scratch_elements(s));
    A* k = scratch.take(L_most * s.K);
    A* faded = scratch.take(L_most * s.K);
    A* v = scratch.take(L_most * s.V);
    A* weighted = scratch.take(L_most * s.V);
    A* update = scratch.take(L_most * s.V);
    A* q = scratch.take(C * s.K);
    A* o = scratch.take(C * s.V);
    A* system = scratch.take(L_most * L_most);
    A* work = scratch.take(L_most * L_most);
    A* own_inverse = scratch.take(L_most * L_most);
    A* scores = scratch.take(C * L_most);
    A* beta = scratch.take(L_most);
    std::vector<double> sums(static_cast<size_t>(C));
    Decay<A> d;
    d.on = task.gate.data != nullptr;
    d.between = scratch.take(C * C);
    d.from_start = scratch.take(C);
    d.to_end = scratch.take(C);
    d.sums = sums.data();
    d.most = C;

    const Row& row = *task.row;
    for (size_t c = 0; c < row.chunks.size(); ++c) {
      const Chunk& chunk = row.chunks[c];
      const int64_t* tokens = row.tokens.data() + chunk.first;
      const int64_t L = chunk.count * s.steps;
      if (task.states != nullptr && c % kStateEvery == 0) {
        std::copy_n(task.state, s.K * s.V,
                    task.states + static_cast<int64_t>(c) / kStateEvery * task.next_state);
      }
      load_rows<V>(task.k, task.b, task.h, tokens, chunk.count, s.steps, s.K, k);
      load_rows<V>(task.v, task.b, task.h, tokens, chunk.count, s.steps, s.V, v);
      load_rows<V>(task.q, task.b, task.h, tokens, chunk.count, 1, s.K, q);
      for (int64_t r = 0; r < L; ++r) {
        beta[r] = *task.beta.at(task.b, tokens[r / s.steps] * s.steps + r % s.steps, task.h);
      }
      fill_decay<V>(d, task.gate, task.b, task.h, tokens, chunk.count);

      A* inverse = task.inverses != nullptr ? task.inverses + chunk.inverse : own_inverse;
      lower_outer(k, k, L, s.K, system);
      mask_strict<V>(system, beta, d, s.steps);
      invert<V>(system, L, inverse, work);
      chunk_update<V>(k, v, task.state, beta, inverse, d, s, chunk.restart, v, weighted, update);

      // o = exp(G) q S + (q k^T, masked) update
      block::gemm(false, true, chunk.count, L, s.K, q, s.K, k, s.K, scores, L, false);
      mask_tokens(scores, d, s.steps);
      if (!chunk.restart) {
        if (d.on) {
          for (int64_t t = 0; t < chunk.count; ++t) {
            scale_row<V>(q + t * s.K, d.from_start[t], q + t * s.K, s.K);
          }
        }
        block::gemm(false, false, chunk.count, s.V, s.K, q, s.K, task.state, s.V, o, s.V, false);
      }
      block::gemm(false, false, chunk.count, s.V, L, scores, L, update, s.V, o, s.V,
                  !chunk.restart);
      store_rows<V>(o, task.o, task.b, task.h, tokens, chunk.count, 1, s.V);
      chunk_state<V>(k, update, d, s, chunk.restart, faded, task.state);
    }
  }
};

}  // namespace delta_product_cpu_detail

DeltaProductResult forward(const DeltaProductInputs& in, const Cut& cut, Kept* kept) {
  using namespace delta_product_cpu_detail;
  const int64_t B = in.q_BTHK.size(0), T = in.q_BTHK.size(1), H = in.q_BTHK.size(2);
  const int64_t K = in.q_BTHK.size(3), V = in.v_BMHV.size(3);
  const auto acc = in.beta_BMH.options();
  const int64_t steps = T > 0 ? in.k_BMHK.size(1) / T : 1;
  const Sizes sizes{
      steps, K, V,
      std::min<int64_t>(std::max<int64_t>(1, kDeltaChunk / steps), std::max<int64_t>(1, T))};
  DeltaProductResult out;
  out.o_BTHV = cut.padded ? at::zeros({B, T, H, V}, in.v_BMHV.options())
                          : at::empty({B, T, H, V}, in.v_BMHV.options());
  out.state_BHKV = in.initial_state_BHKV.defined()
                       ? in.initial_state_BHKV.clone(at::MemoryFormat::Contiguous)
                       : at::zeros({B, H, K, V}, acc);
  if (kept != nullptr) {
    kept->inverses = at::empty({cut.inverses * H}, acc);
    kept->states = at::empty({cut.states, H, K, V}, acc);
  }
  with_types(in.v_BMHV, [&]<class S, class A>(S, A) {
    at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Task<S, A> task;
        task.b = i / H;
        task.h = i % H;
        task.q = read_grid<S>(in.q_BTHK);
        task.k = read_grid<S>(in.k_BMHK);
        task.v = read_grid<S>(in.v_BMHV);
        task.gate = read_grid<A>(in.gate_BTH);
        task.beta = read_grid<A>(in.beta_BMH);
        task.o = write_grid<S>(out.o_BTHV);
        task.row = &cut.rows[static_cast<size_t>(task.b)];
        task.sizes = sizes;
        task.state = out.state_BHKV.mutable_data_ptr<A>() + i * K * V;
        if (kept != nullptr) {
          task.inverses = kept->inverses.mutable_data_ptr<A>() + task.row->before * H +
                          task.h * task.row->inverses;
          task.states =
              kept->states.mutable_data_ptr<A>() + (task.row->states * H + task.h) * K * V;
          task.next_state = H * K * V;
        }
        simd::run<Forward<A>>(task);
      }
    });
  });
  return out;
}

}  // namespace strata::ops::delta_cpu
