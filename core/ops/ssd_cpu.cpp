#include "core/ops/ssd_cpu.h"

#include <ATen/ops/empty.h>

#include "core/ops/cpu_rows.h"
#include "core/ops/ssd_walk.h"

namespace strata::ops::ssd_cpu {

namespace ssd_cpu_detail {

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

}  // namespace ssd_cpu_detail

Output forward(const Problem& problem) {
  Output output;
  with_types(problem.x_BTHP,
             [&]<class S, class A>(S, A) { output = ssd_cpu_detail::forward_of<S, A>(problem); });
  return output;
}

}  // namespace strata::ops::ssd_cpu
