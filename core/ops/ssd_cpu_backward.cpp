// Gradients of a chunk's inputs once the gradients of the states after every chunk are known.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/ops/cpu_rows.h"
#include "core/ops/ssd_walk.h"

namespace strata::ops::ssd_cpu {

namespace ssd_cpu_backward_detail {

// What the gradient pass adds to a chunk.
template <class A>
struct ChunkGradient {
  const A* dy = nullptr;     // [L, M P]
  const A* state = nullptr;  // [M P, N] before the chunk
  const A* gamma = nullptr;  // [M P, N] gradient of the state after the chunk
  A* dx = nullptr;           // [L, M P] overwritten
  A* db = nullptr;           // [L, N] added to
  A* dc = nullptr;           // [L, N] added to
  A* dg = nullptr;           // [L, ld] added to: gradient of the pair products
  A* ddt = nullptr;          // [M, ld] overwritten
  A* da_rate = nullptr;      // [M] overwritten
  // scratch
  A* wide = nullptr;    // [L, M P]
  A* pairs = nullptr;   // [L, ld]
  A* prefix = nullptr;  // [ld]
  A* out = nullptr;     // [M, ld]
  A* in = nullptr;      // [M, ld]
  A* da = nullptr;      // [ld]
};

// The gradient that rows of the chunk send to the state before it: out [M P, N].
template <class V, class A>
[[gnu::always_inline]] inline void state_gradient(const Chunk<A>& k, const A* dy, A* out) {
  scale_rows<V>(k, dy, k.row, k.scaled);
  block::gemm<A>(true, false, k.width(), k.N, k.L, k.scaled, k.width(), k.c, k.N, out, k.N, false);
}

template <class V, class A>
[[gnu::always_inline]] inline void gradients(const Chunk<A>& k, const ChunkGradient<A>& q) {
  constexpr int64_t lanes = simd::kLanes<V>;
  const int64_t E = k.width();
  // Through the state after the chunk.
  block::gemm<A>(false, true, k.L, E, k.N, k.b, k.N, q.gamma, k.N, q.wide, E, false);
  row_dots<V>(k, k.x, q.wide, k.tail, q.in);
  scale_rows<V>(k, q.wide, k.tail_dt, q.dx);
  scale_rows<V>(k, k.x, k.tail_dt, k.scaled);
  block::gemm<A>(false, false, k.L, k.N, E, k.scaled, E, q.gamma, k.N, q.db, k.N, true);
  // Through the state before it.
  block::gemm<A>(false, true, k.L, E, k.N, k.c, k.N, q.state, k.N, q.wide, E, false);
  row_dots<V>(k, q.dy, q.wide, k.row, q.out);
  scale_rows<V>(k, q.dy, k.row, k.scaled);
  block::gemm<A>(false, false, k.L, k.N, E, k.scaled, E, q.state, k.N, q.dc, k.N, true);
  // Pairs within the chunk, head by head.
  for (int64_t h = 0; h < k.M; ++h) {
    const A* dt = k.dt + h * k.ld;
    A* ddt = q.ddt + h * k.ld;
    block::gemm<A>(false, true, k.L, k.L, k.P, k.x + h * k.P, E, q.dy + h * k.P, E, q.pairs, k.ld,
                   false);
    zero<V>(q.prefix, k.ld);
    for (int64_t j = 0; j < k.L; ++j) {
      const int64_t first = (j + k.shift) / lanes * lanes;
      A* w = k.w + j * k.ld;
      zero<V>(w, first < k.ld ? first : k.ld);
      V crossing{}, direct{};  // pairs whose decay contains a_j; what multiplies dt_j
      for (int64_t i = first; i < k.ld; i += lanes) {
        const V d = pair_decay<V>(k, h, j, i);
        const V inside = simd::load<V>(k.index + i) < static_cast<A>(k.L) ? d : V{};
        const V product = simd::load<V>(k.g + j * k.ld + i);
        const V dd = simd::load<V>(q.pairs + j * k.ld + i);
        const V kd = inside != V{} ? static_cast<V>(dd * inside) : V{};
        simd::store(w + i, static_cast<V>(product * inside * dt[j]));
        A* dg = q.dg + j * k.ld + i;
        simd::store(dg, static_cast<V>(simd::load<V>(dg) + kd * dt[j]));
        const V m = kd * product;
        direct += m;
        const V prefix = simd::load<V>(q.prefix + i);
        crossing += simd::load<V>(k.index + i) < static_cast<A>(j + k.shift) ? V{} : prefix;
        simd::store(q.prefix + i, static_cast<V>(prefix + m * dt[j]));
      }
      q.da[j] = simd::sum_of(crossing);
      ddt[j] = simd::sum_of(direct);
    }
    block::gemm<A>(false, false, k.L, k.P, k.L, k.w, k.ld, q.dy + h * k.P, E, q.dx + h * k.P, E,
                   true);
    // da_u += sum of out_i over rows that read at or after u, + sum of in_j dt_j over j < u, + the
    // incoming state's way through the chunk.
    const A* out = q.out + h * k.ld;
    const A* in = q.in + h * k.ld;
    A sum = 0;
    for (int64_t u = k.L - 1; u >= 0; --u) {
      sum += u + k.shift < k.L ? out[u + k.shift] : A(0);
      q.da[u] += sum;
    }
    const A* state = q.state + h * k.P * k.N;
    const A* gamma = q.gamma + h * k.P * k.N;
    const A through =
        k.carried[h] * simd::sum_sweep<V>(
                           k.P * k.N, [&](int64_t p, auto part) __attribute__((always_inline)) {
                             return static_cast<V>(simd::load<V>(state + p, part) *
                                                   simd::load<V>(gamma + p, part));
                           });
    sum = 0;
    A rate = 0;
    for (int64_t u = 0; u < k.L; ++u) {
      const A da = q.da[u] + sum + through;
      sum += in[u] * dt[u];
      rate += da * dt[u];
      ddt[u] += in[u] + da * k.a_rate[h];
    }
    q.da_rate[h] = rate;
  }
}

// Once all heads of the group have added to q.dg.
template <class V, class A>
[[gnu::always_inline]] inline void pair_product_gradients(const Chunk<A>& k,
                                                          const ChunkGradient<A>& q) {
  block::gemm<A>(false, false, k.L, k.N, k.L, q.dg, k.ld, k.c, k.N, q.db, k.N, true);
  block::gemm<A>(true, false, k.L, k.N, k.L, q.dg, k.ld, k.b, k.N, q.dc, k.N, true);
}

// Pointers that the tasks of the backward write through.
template <class S, class A>
struct Targets {
  Rows dy;
  std::vector<const A*> before, gamma;
  A* dx = nullptr;  // summed over scans before it is rounded
  A* ddelta = nullptr;
  std::vector<A*> ddt, da_rate;  // [B,T,H]; [row, chunk, H]
  std::vector<A*> db, dc;        // [B,T,G,N]
};

template <class V, class S, class A>
[[gnu::always_inline]] inline void pack_dy(const View<S, A>& v, const Rows& dy, bool reverse,
                                           const Place& at, int64_t head, const Chunk<A>& k,
                                           A* to) {
  const S* from = dy.template data<S>() + at.row * v.T * dy.stride + head * v.P;
  for (int64_t i = 0; i < k.L; ++i) {
    pack_row<V>(from + token_of(at, reverse, i) * dy.stride, to + i * k.width(), k.width());
  }
}

// The chunk's rows of dx and ddelta. The first scan brings the diagonal term along.
template <class V, class S, class A>
[[gnu::always_inline]] inline void add_dx(const View<S, A>& v, const Targets<S, A>& t, size_t scan,
                                          const Place& at, int64_t head, const Chunk<A>& k,
                                          const ChunkGradient<A>& q) {
  for (int64_t i = 0; i < k.L; ++i) {
    const int64_t token = at.row * v.T + token_of(at, v.reverse[scan], i);
    A* to = t.dx + (token * v.H + head) * v.P;
    const A *from = q.dx + i * k.width(), *dy = q.dy + i * k.width(), *x = k.x + i * k.width();
    if (scan > 0) {
      simd::sweep<V>(
          k.width(), [&](int64_t e, auto lanes) __attribute__((always_inline)) {
            const V sum = simd::load<V>(to + e, lanes) + simd::load<V>(from + e, lanes);
            simd::store(to + e, sum, lanes);
          });
      continue;
    }
    if (v.delta == nullptr) {
      pack_row<V>(from, to, k.width());
      continue;
    }
    for (int64_t h = 0; h < k.M; ++h) {
      const A delta = v.delta[token * v.H + head + h];
      const int64_t row = h * v.P;
      t.ddelta[token * v.H + head + h] = simd::sum_sweep<V>(
          v.P, [&](int64_t p, auto lanes) __attribute__((always_inline)) {
            return static_cast<V>(simd::load<V>(dy + row + p, lanes) *
                                  simd::load<V>(x + row + p, lanes));
          });
      simd::sweep<V>(
          v.P, [&](int64_t p, auto lanes) __attribute__((always_inline)) {
            const V sum =
                simd::load<V>(from + row + p, lanes) + simd::load<V>(dy + row + p, lanes) * delta;
            simd::store(to + row + p, sum, lanes);
          });
    }
  }
}

template <class A>
struct StateGradients {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const View<S, A>& v, size_t scan, const Place& at,
                                                const Rows& dy, A* const& gamma) {
    using V = simd::Vec<A, Bytes>;
    const int64_t L = at.L();
    Scratch<A> scratch(chunk_elements(L, v.block, v.P, v.N) + padded(L * v.block * v.P));
    Chunk<A> k = make_chunk(scratch, L, v.block, v.P, v.N, v.shift);
    A* packed = scratch.take(L * v.block * v.P);
    pack_group<V>(v, scan, at, k);
    head_blocks(
        at.group, v.group,
        v.block, [&](int64_t head, int64_t heads) __attribute__((always_inline)) {
          k.M = heads;
          pack_heads<V>(v, scan, at, head, k);
          pack_dy<V>(v, dy, v.reverse[scan], at, head, k, packed);
          state_gradient<V>(k, packed, gamma + state_at(v, at, head));
        });
  }
};

template <class A>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const View<S, A>& v, const Place& at,
                                                const Targets<S, A>& t) {
    using V = simd::Vec<A, Bytes>;
    const int64_t L = at.L(), width = v.block * v.P, ld = padded(L);
    Scratch<A> scratch(chunk_elements(L, v.block, v.P, v.N) + 3 * padded(L * width) +
                       2 * padded(L * ld) + 2 * padded(L * v.N) + 3 * padded(v.block * ld) +
                       2 * ld + padded(v.block));
    Chunk<A> k = make_chunk(scratch, L, v.block, v.P, v.N, v.shift);
    A* dy = scratch.take(L * width);
    ChunkGradient<A> q;
    q.dy = dy;
    q.dx = scratch.take(L * width);
    q.wide = scratch.take(L * width);
    q.dg = scratch.take(L * ld);
    q.pairs = scratch.take(L * ld);
    q.db = scratch.take(L * v.N);
    q.dc = scratch.take(L * v.N);
    q.ddt = scratch.take(v.block * ld);
    q.out = scratch.take(v.block * ld);
    q.in = scratch.take(v.block * ld);
    q.prefix = scratch.take(ld);
    q.da = scratch.take(ld);
    q.da_rate = scratch.take(v.block);
    for (size_t scan = 0; scan < v.scans(); ++scan) {
      const bool reverse = v.reverse[scan];
      pack_group<V>(v, scan, at, k);
      pair_products<V>(k);
      zero<V>(q.dg, L * ld);
      zero<V>(q.db, L * v.N);
      zero<V>(q.dc, L * v.N);
      head_blocks(
          at.group, v.group,
          v.block, [&](int64_t head, int64_t heads) __attribute__((always_inline)) {
            k.M = heads;
            pack_heads<V>(v, scan, at, head, k);
            pack_dy<V>(v, t.dy, reverse, at, head, k, dy);
            q.state = t.before[scan] + state_at(v, at, head);
            q.gamma = t.gamma[scan] + state_at(v, at, head);
            gradients<V>(k, q);
            for (int64_t h = 0; h < heads; ++h) {
              t.da_rate[scan][(at.row * v.chunks + at.chunk) * v.H + head + h] = q.da_rate[h];
            }
            for (int64_t i = 0; i < L; ++i) {
              const int64_t token = at.row * v.T + token_of(at, reverse, i);
              for (int64_t h = 0; h < heads; ++h) {
                t.ddt[scan][token * v.H + head + h] = q.ddt[h * ld + i];
              }
            }
            add_dx<V>(v, t, scan, at, head, k, q);
          });
      pair_product_gradients<V>(k, q);
      const int64_t back = v.shift == 0 ? 0 : reverse ? 1 : -1;
      for (int64_t i = 0; i < L; ++i) {
        const int64_t token = token_of(at, reverse, i), read = token + back;
        const int64_t column = at.group * v.N;
        pack_row<V>(q.db + i * v.N, t.db[scan] + (at.row * v.T + token) * v.G * v.N + column, v.N);
        if (read >= 0 && read < v.T) {
          pack_row<V>(q.dc + i * v.N, t.dc[scan] + (at.row * v.T + read) * v.G * v.N + column, v.N);
        }
      }
    }
  }
};

template <class S, class A>
Gradients backward_of(const Problem& problem, const Tensor& dy, const std::vector<Tensor>& dfinal) {
  const View<S, A> v(problem);
  const auto options = problem.A_H.options();
  Gradients gradients;
  Tensor dx = at::empty(problem.x_BTHP.sizes(), options);
  Targets<S, A> t;
  t.dy = rows_of(dy.flatten(2));
  t.dx = dx.mutable_data_ptr<A>();
  if (problem.delta_BTH.defined()) {
    gradients.delta_BTH = at::empty(problem.delta_BTH.sizes(), options);
    t.ddelta = gradients.delta_BTH.template mutable_data_ptr<A>();
  }
  std::vector<Tensor> keep;  // what the pointers of t point to
  Tensor rates = at::empty({static_cast<int64_t>(v.scans()), v.rows * v.chunks, v.H}, options);
  for (size_t scan = 0; scan < v.scans(); ++scan) {
    const Scan& given = problem.scans[scan];
    const States states = states_of(v, scan, options);
    Tensor gamma = at::empty({v.state_elements()}, options);
    A* sent = gamma.mutable_data_ptr<A>();
    for_blocks(v.tasks(), 1, [&](int64_t task, int64_t, int64_t) {
      simd::run<StateGradients<A>>(v, scan, place_of(v, task), t.dy, sent);
    });
    Tensor arriving = scan < dfinal.size() && dfinal[scan].defined()
                          ? dfinal[scan].to(options.dtype()).clone(at::MemoryFormat::Contiguous)
                          : at::zeros({v.rows, v.H, v.P, v.N}, options);
    scan_chunks(v, gamma, states.carried, arriving, !v.reverse[scan]);
    ScanGradients mine;
    mine.dt_BTH = at::empty(given.dt_BTH.sizes(), options);
    mine.B_BTGN = at::empty(given.B_BTGN.sizes(), options);
    mine.C_BTGN = at::zeros(given.C_BTGN.sizes(), options);  // of the last token read by none
    if (given.initial_BHPN.defined()) {
      mine.initial_BHPN = arriving;
    }
    t.before.push_back(states.before.template const_data_ptr<A>());
    t.gamma.push_back(gamma.template const_data_ptr<A>());
    t.ddt.push_back(mine.dt_BTH.template mutable_data_ptr<A>());
    t.db.push_back(mine.B_BTGN.template mutable_data_ptr<A>());
    t.dc.push_back(mine.C_BTGN.template mutable_data_ptr<A>());
    t.da_rate.push_back(rates.select(0, static_cast<int64_t>(scan)).mutable_data_ptr<A>());
    keep.insert(keep.end(), {states.before, gamma});
    gradients.scans.push_back(mine);
  }
  for_blocks(v.tasks(), 1, [&](int64_t task, int64_t, int64_t) {
    simd::run<Backward<A>>(v, place_of(v, task), t);
  });
  gradients.x_BTHP = dx.to(problem.x_BTHP.scalar_type());
  for (size_t scan = 0; scan < v.scans(); ++scan) {
    const auto narrow = problem.scans[scan].B_BTGN.scalar_type();
    gradients.scans[scan].B_BTGN = gradients.scans[scan].B_BTGN.to(narrow);
    gradients.scans[scan].C_BTGN = gradients.scans[scan].C_BTGN.to(narrow);
  }
  // In order of scans, rows and chunks, whatever the threads.
  gradients.A_H = at::zeros({v.H}, options);
  A* rate = gradients.A_H.template mutable_data_ptr<A>();
  const A* parts = rates.template const_data_ptr<A>();
  for (int64_t part = 0; part < rates.numel() / std::max<int64_t>(1, v.H); ++part) {
    for (int64_t h = 0; h < v.H; ++h) {
      rate[h] += parts[part * v.H + h];
    }
  }
  return gradients;
}

}  // namespace ssd_cpu_backward_detail

Gradients backward(const Problem& problem, const Tensor& dy_BTHP,
                   const std::vector<Tensor>& dfinal) {
  Gradients gradients;
  with_types(problem.x_BTHP, [&]<class S, class A>(S, A) {
    gradients = ssd_cpu_backward_detail::backward_of<S, A>(problem, dy_BTHP, dfinal);
  });
  return gradients;
}

}  // namespace strata::ops::ssd_cpu
