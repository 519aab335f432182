// Three phases, each split into tasks that write memory of their own, so results do not depend on
// the threads: per (row, chunk, group) what the chunk adds to the state; per (row, head) the scan
// over chunks; per (row, chunk, group) the outputs. The backward computes the states again and goes
// through the same phases for their gradients. A task packs its chunk into a thread's own memory,
// in scan order and widened; heads of a group are folded into the width of one matrix product, a
// block of heads at a time so that the chunk stays in the second-level cache.
#include "core/ops/ssd_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/ops/cpu_rows.h"
#include "core/ops/ssd_chunk.h"

namespace strata::ops::ssd_cpu {

namespace ssd_cpu_detail {

constexpr int64_t kBlockWidth = 512;  // M P of a block of heads

// Memory of a thread that grows to the largest task and is given out piece by piece.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t elements) {
    static thread_local std::vector<A> memory;
    if (static_cast<int64_t>(memory.size()) < elements) {
      memory.resize(static_cast<size_t>(elements));
    }
    next_ = memory.data();
  }
  A* take(int64_t elements) {
    A* piece = next_;
    next_ += padded(elements);
    return piece;
  }

 private:
  A* next_;
};

// The problem as pointers.
template <class S, class A>
struct View {
  explicit View(const Problem& p)
      : x(rows_of(p.x_BTHP.flatten(2))),
        rows(p.x_BTHP.size(0)),
        T(p.x_BTHP.size(1)),
        H(p.x_BTHP.size(2)),
        P(p.x_BTHP.size(3)),
        G(p.scans[0].B_BTGN.size(2)),
        N(p.scans[0].B_BTGN.size(3)),
        shift(p.shift),
        Q(std::max<int64_t>(1, std::min(p.chunk, T))),
        chunks((T + Q - 1) / Q),
        group(H / G),
        block(std::min(group, std::max<int64_t>(1, kBlockWidth / P))),
        a_rate(p.A_H.const_data_ptr<A>()),
        delta(p.delta_BTH.defined() ? p.delta_BTH.const_data_ptr<A>() : nullptr),
        segments(p.segments_BT.defined() ? p.segments_BT.const_data_ptr<int32_t>() : nullptr) {
    for (const Scan& scan : p.scans) {
      b.push_back(rows_of(scan.B_BTGN.flatten(2)));
      c.push_back(rows_of(scan.C_BTGN.flatten(2)));
      dt.push_back(scan.dt_BTH.const_data_ptr<A>());
      initial.push_back(scan.initial_BHPN.defined() ? scan.initial_BHPN.const_data_ptr<A>()
                                                    : nullptr);
      reverse.push_back(scan.reverse);
    }
  }
  size_t scans() const { return dt.size(); }
  int64_t tasks() const { return rows * chunks * G; }
  int64_t state_elements() const { return rows * chunks * H * P * N; }

  Rows x;
  int64_t rows, T, H, P, G, N, shift, Q, chunks, group, block;
  const A* a_rate;
  const A* delta;
  const int32_t* segments;
  std::vector<Rows> b, c;
  std::vector<const A*> dt, initial;
  std::vector<bool> reverse;
};

// Where a task works.
struct Place {
  int64_t row, chunk, group, begin, end;  // tokens [begin, end)
  int64_t L() const { return end - begin; }
};
template <class S, class A>
Place place_of(const View<S, A>& v, int64_t task) {
  Place at{};
  at.group = task % v.G;
  at.chunk = task / v.G % v.chunks;
  at.row = task / v.G / v.chunks;
  at.begin = at.chunk * v.Q;
  at.end = std::min(v.T, at.begin + v.Q);
  return at;
}

// Token of scan step i of a chunk; steps -1 and L are its neighbours.
inline int64_t token_of(const Place& at, bool reverse, int64_t i) {
  return reverse ? at.end - 1 - i : at.begin + i;
}

template <class V, class S, class A>
[[gnu::always_inline]] inline void pack_row(const S* from, A* to, int64_t width) {
  simd::sweep<V>(
      width, [&](int64_t e, auto lanes) __attribute__((always_inline)) {
        simd::store(to + e, simd::load<V>(from + e, lanes), lanes);
      });
}

template <class A>
Chunk<A> make_chunk(Scratch<A>& scratch, int64_t L, int64_t block, int64_t P, int64_t N,
                    int64_t shift) {
  Chunk<A> k;
  k.L = L;
  k.P = P;
  k.N = N;
  k.ld = padded(L);
  k.shift = shift;
  k.M = block;
  k.x = scratch.take(L * block * P);
  k.scaled = scratch.take(L * block * P);
  k.b = scratch.take(L * N);
  k.c = scratch.take(L * N);
  for (A** per_token : {&k.start, &k.index}) {
    *per_token = scratch.take(k.ld);
  }
  for (A** per_head : {&k.dt, &k.s, &k.s_row, &k.row, &k.tail, &k.tail_dt}) {
    *per_head = scratch.take(block * k.ld);
  }
  k.carried = scratch.take(block);
  k.g = scratch.take(L * k.ld);
  k.w = scratch.take(L * k.ld);
  return k;
}
inline int64_t chunk_elements(int64_t L, int64_t block, int64_t P, int64_t N) {
  const int64_t ld = padded(L);
  return 2 * padded(L * block * P) + 2 * padded(L * N) + 2 * ld + 6 * padded(block * ld) +
         padded(block) + 2 * padded(L * ld) + 16 * kPad;
}

// B, C and segments of the chunk: the same for all heads of the group.
template <class V, class S, class A>
[[gnu::always_inline]] inline void pack_group(const View<S, A>& v, size_t scan, const Place& at,
                                              Chunk<A>& k) {
  const bool reverse = v.reverse[scan];
  const int64_t back = reverse ? 1 : -1;
  const Rows &b = v.b[scan], &c = v.c[scan];
  const S* b_from = b.template data<S>() + at.row * v.T * b.stride + at.group * v.N;
  const S* c_from = c.template data<S>() + at.row * v.T * c.stride + at.group * v.N;
  const int32_t* segments = v.segments != nullptr ? v.segments + at.row * v.T : nullptr;
  k.cut = false;
  for (int64_t i = 0; i < k.L; ++i) {
    const int64_t token = token_of(at, reverse, i);
    pack_row<V>(b_from + token * b.stride, k.b + i * v.N, v.N);
    const int64_t read = token + (v.shift != 0 ? back : 0);
    if (read >= 0 && read < v.T) {
      pack_row<V>(c_from + read * c.stride, k.c + i * v.N, v.N);
    } else {  // nothing was read before the first token
      zero<V>(k.c + i * v.N, v.N);
    }
    const int64_t before = token + back;
    const bool joined =
        segments == nullptr || before < 0 || before >= v.T || segments[before] == segments[token];
    k.start[i] = joined ? (i == 0 ? A(-1) : k.start[i - 1]) : static_cast<A>(i);
    k.cut = k.cut || !joined;
  }
  for (int64_t i = 0; i < k.ld; ++i) {
    k.index[i] = static_cast<A>(i);
    if (i >= k.L) {
      k.start[i] = k.start[k.L - 1];
    }
  }
}

// x and dt of heads [head, head + k.M).
template <class V, class S, class A>
[[gnu::always_inline]] inline void pack_heads(const View<S, A>& v, size_t scan, const Place& at,
                                              int64_t head, Chunk<A>& k) {
  const bool reverse = v.reverse[scan];
  k.a_rate = v.a_rate + head;
  const S* x = v.x.template data<S>() + at.row * v.T * v.x.stride + head * v.P;
  const A* dt = v.dt[scan] + at.row * v.T * v.H + head;
  for (int64_t i = 0; i < k.L; ++i) {
    const int64_t token = token_of(at, reverse, i);
    pack_row<V>(x + token * v.x.stride, k.x + i * k.width(), k.width());
    for (int64_t h = 0; h < k.M; ++h) {
      k.dt[h * k.ld + i] = dt[token * v.H + h];
    }
  }
  prepare<V>(k);
}

// f(first head, heads) for the blocks of a group.
template <class F>
[[gnu::always_inline]] inline void head_blocks(int64_t group, int64_t heads, int64_t block,
                                               const F& f) {
  for (int64_t h = 0; h < heads; h += block) {
    f(group * heads + h, std::min(block, heads - h));
  }
}

// States before (or, once scanned, gradients after) each chunk: [row, chunk, H, P, N].
template <class S, class A>
int64_t state_at(const View<S, A>& v, const Place& at, int64_t head) {
  return ((at.row * v.chunks + at.chunk) * v.H + head) * v.P * v.N;
}

template <class A>
struct LocalStates {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const View<S, A>& v, size_t scan, const Place& at,
                                                A* const& states, A* const& carried) {
    using V = simd::Vec<A, Bytes>;
    Scratch<A> scratch(chunk_elements(at.L(), v.block, v.P, v.N));
    Chunk<A> k = make_chunk(scratch, at.L(), v.block, v.P, v.N, v.shift);
    pack_group<V>(v, scan, at, k);
    head_blocks(
        at.group, v.group,
        v.block, [&](int64_t head, int64_t heads) __attribute__((always_inline)) {
          k.M = heads;
          pack_heads<V>(v, scan, at, head, k);
          local_state<V>(k, states + state_at(v, at, head));
          for (int64_t h = 0; h < heads; ++h) {
            carried[(at.row * v.chunks + at.chunk) * v.H + head + h] = k.carried[h];
          }
        });
  }
};

// In place: contributions of the chunks -> the states that enter them (forward), or gradients sent
// by the chunks -> gradients of the states that leave them (backward, which goes the other way).
template <class A>
struct ScanStates {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(A* const& states, const A* const& carried,
                                                A* const& current, int64_t chunks, int64_t heads,
                                                int64_t elements, bool descending) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t n = 0; n < chunks; ++n) {
      const int64_t chunk = descending ? chunks - 1 - n : n;
      A* at = states + chunk * heads * elements;
      const A keep = carried[chunk * heads];
      simd::sweep<V>(
          elements, [&](int64_t e, auto lanes) __attribute__((always_inline)) {
            const V here = simd::load<V>(at + e, lanes);
            const V state = simd::load<V>(current + e, lanes);
            simd::store(at + e, state, lanes);
            simd::store(current + e, static_cast<V>(state * keep + here), lanes);
          });
    }
  }
};

struct States {
  Tensor before;   // [row, chunk, H, P, N]
  Tensor carried;  // [row, chunk, H]
  Tensor last;     // [row, H, P, N]
};

template <class S, class A>
void scan_chunks(const View<S, A>& v, Tensor& states, const Tensor& carried, Tensor& current,
                 bool descending) {
  A* data = states.mutable_data_ptr<A>();
  const A* keep = carried.const_data_ptr<A>();
  A* now = current.mutable_data_ptr<A>();
  const int64_t elements = v.P * v.N;
  for_blocks(v.rows * v.H, 1, [&](int64_t task, int64_t, int64_t) {
    const int64_t row = task / v.H, h = task % v.H;
    simd::run<ScanStates<A>>(data + (row * v.chunks * v.H + h) * elements,
                             keep + row * v.chunks * v.H + h, now + task * elements, v.chunks, v.H,
                             elements, descending);
  });
}

template <class S, class A>
States states_of(const View<S, A>& v, size_t scan, const at::TensorOptions& options) {
  States states;
  states.before = at::empty({v.state_elements()}, options);
  states.carried = at::empty({v.rows * v.chunks * v.H}, options);
  states.last = at::zeros({v.rows, v.H, v.P, v.N}, options);
  if (v.initial[scan] != nullptr) {
    std::copy(v.initial[scan], v.initial[scan] + states.last.numel(),
              states.last.mutable_data_ptr<A>());
  }
  A* before = states.before.mutable_data_ptr<A>();
  A* carried = states.carried.mutable_data_ptr<A>();
  for_blocks(v.tasks(), 1, [&](int64_t task, int64_t, int64_t) {
    simd::run<LocalStates<A>>(v, scan, place_of(v, task), before, carried);
  });
  scan_chunks(v, states.before, states.carried, states.last, v.reverse[scan]);
  return states;
}

template <class A>
struct Outputs {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const View<S, A>& v, const Place& at,
                                                const std::vector<const A*>& states, S* const& y) {
    using V = simd::Vec<A, Bytes>;
    const int64_t L = at.L(), width = v.block * v.P, E = v.H * v.P;
    Scratch<A> scratch(chunk_elements(L, v.block, v.P, v.N) + 2 * padded(L * width));
    Chunk<A> k = make_chunk(scratch, L, v.block, v.P, v.N, v.shift);
    A* part = scratch.take(L * width);
    A* sum = scratch.take(L * width);
    head_blocks(
        at.group, v.group,
        v.block, [&](int64_t head, int64_t heads) __attribute__((always_inline)) {
          k.M = heads;
          for (size_t scan = 0; scan < v.scans(); ++scan) {
            pack_group<V>(v, scan, at, k);
            pack_heads<V>(v, scan, at, head, k);
            pair_products<V>(k);
            outputs<V>(k, states[scan] + state_at(v, at, head), part);
            for (int64_t i = 0; i < L; ++i) {
              A* to = sum + (token_of(at, v.reverse[scan], i) - at.begin) * k.width();
              const A* from = part + i * k.width();
              simd::sweep<V>(
                  k.width(), [&](int64_t e, auto lanes) __attribute__((always_inline)) {
                    V value = simd::load<V>(from + e, lanes);
                    if (scan > 0) {
                      value += simd::load<V>(to + e, lanes);
                    }
                    simd::store(to + e, value, lanes);
                  });
            }
          }
          for (int64_t i = 0; i < L; ++i) {
            const int64_t token = at.row * v.T + at.begin + i;
            const S* x = v.x.template data<S>() + token * v.x.stride + head * v.P;
            for (int64_t h = 0; h < heads; ++h) {
              const A delta = v.delta != nullptr ? v.delta[token * v.H + head + h] : A(0);
              simd::sweep<V>(
                  v.P, [&](int64_t p, auto lanes) __attribute__((always_inline)) {
                    const int64_t e = h * v.P + p;
                    const V value = simd::load<V>(sum + i * k.width() + e, lanes) +
                                    simd::load<V>(x + e, lanes) * delta;
                    simd::store(y + token * E + head * v.P + e, value, lanes);
                  });
            }
          }
        });
  }
};

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
Output forward_of(const Problem& problem) {
  const View<S, A> v(problem);
  const auto options = problem.A_H.options();
  Output output;
  output.y_BTHP = at::empty(problem.x_BTHP.sizes(), problem.x_BTHP.options());
  std::vector<States> states;
  std::vector<const A*> before;
  for (size_t scan = 0; scan < v.scans(); ++scan) {
    states.push_back(states_of(v, scan, options));
    before.push_back(states.back().before.template const_data_ptr<A>());
    output.final_states.push_back(states.back().last);
  }
  S* y = output.y_BTHP.mutable_data_ptr<S>();
  for_blocks(v.tasks(), 1, [&](int64_t task, int64_t, int64_t) {
    simd::run<Outputs<A>>(v, place_of(v, task), before, y);
  });
  return output;
}

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

}  // namespace ssd_cpu_detail

Output forward(const Problem& problem) {
  Output output;
  with_types(problem.x_BTHP,
             [&]<class S, class A>(S, A) { output = ssd_cpu_detail::forward_of<S, A>(problem); });
  return output;
}

Gradients backward(const Problem& problem, const Tensor& dy_BTHP,
                   const std::vector<Tensor>& dfinal) {
  Gradients gradients;
  with_types(problem.x_BTHP, [&]<class S, class A>(S, A) {
    gradients = ssd_cpu_detail::backward_of<S, A>(problem, dy_BTHP, dfinal);
  });
  return gradients;
}

}  // namespace strata::ops::ssd_cpu
