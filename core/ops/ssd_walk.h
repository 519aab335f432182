#pragma once
// How the kernels of ssd_cpu.h go through a text. Private to ssd_cpu*.cpp.
//
// Three phases, each split into tasks that write memory of their own, so results do not depend on
// the threads: per (row, chunk, group) what the chunk adds to the state; per (row, head) the scan
// over chunks; per (row, chunk, group) the outputs. The backward computes the states again and goes
// through the same phases for their gradients. A task packs its chunk into a thread's own memory,
// in scan order and widened; heads of a group are folded into the width of one matrix product, a
// block of heads at a time so that the chunk stays in the second-level cache.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "core/ops/cpu_rows.h"
#include "core/ops/ssd_chunk.h"
#include "core/ops/ssd_cpu.h"

namespace strata::ops::ssd_cpu {

inline constexpr int64_t kBlockWidth = 512;  // M P of a block of heads

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

}  // namespace strata::ops::ssd_cpu
