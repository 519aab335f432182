#include "core/ops/gated_scan_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::gated_scan_cpu {

namespace gated_scan_cpu_detail {

constexpr int64_t kChannels = 1024;  // of a task, at most: its state stays in the first-level cache
constexpr int64_t kChannelStep = 64;  // they are a multiple of, but for the last task of a row
constexpr int32_t kPadding = -1;

// One row, channels [0, channels) of D.
template <class S, class A>
struct Span {
  const S* input = nullptr;
  const S* forget = nullptr;
  const A* bound = nullptr;  // null: none
  const int32_t* segments = nullptr;
  const A* initial = nullptr;
  S* h = nullptr;
  A* state = nullptr;
  // backward
  const S* dh = nullptr;
  const A* dstate = nullptr;  // null: zeros
  const S* held = nullptr;    // h of the forward
  S* dinput = nullptr;
  S* dforget = nullptr;
  A* dbound = nullptr;
  A* dinitial = nullptr;
  int64_t length = 0, channels = 0, D = 0;
};

// sigmoid(x) and sigmoid(-x), both without cancellation.
template <class V>
struct Sigmoid {
  V value, complement;
};
template <class V>
[[gnu::always_inline]] inline Sigmoid<V> sigmoid(const V& x) {
  const V e = simd::exp(static_cast<V>(x < V{} ? x : -x));
  const V near = simd::Scalar<V>(1) / (simd::Scalar<V>(1) + e);
  const V far = e * near;
  return {x < V{} ? far : near, x < V{} ? near : far};
}

// What happens to the state before each token.
enum class Step { Go, Restart, Skip };
inline Step step_at(const int32_t* segments, int64_t t, int32_t& current) {
  if (segments == nullptr) return Step::Go;
  const int32_t segment = segments[t];
  if (segment == kPadding) return Step::Skip;
  const bool other = current != kPadding && segment != current;
  current = segment;
  return other ? Step::Restart : Step::Go;
}

template <class A>
struct Forward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    A state[kChannels];
    for (int64_t i = 0; i < span.channels; ++i)
      state[i] = span.initial != nullptr ? span.initial[i] : A(0);
    int32_t current = kPadding;
    for (int64_t t = 0; t < span.length; ++t) {
      const S* u = span.input + t * span.D;
      const S* v = span.forget + t * span.D;
      S* h = span.h + t * span.D;
      const Step step = step_at(span.segments, t, current);
      if (step == Step::Skip) {
        simd::sweep<V>(
            span.channels, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              simd::store(h + i, simd::load<V>(state + i, lanes), lanes);
            });
        continue;
      }
      const A keep = step == Step::Restart ? A(0) : A(1);
      simd::sweep<V>(
          span.channels, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V x = simd::load<V>(u + i, lanes);
            const auto gate = sigmoid(simd::load<V>(v + i, lanes));
            V f = gate.value, open = gate.complement;
            if (span.bound != nullptr) {
              const V b = simd::load<V>(span.bound + i, lanes);
              open = (A(1) - b) * open;
              f = b + (A(1) - b) * f;
            }
            const V next =
                f * (simd::load<V>(state + i, lanes) * keep) + x * sigmoid(x).value * open;
            simd::store(state + i, next, lanes);
            simd::store(h + i, next, lanes);
          });
    }
    for (int64_t i = 0; i < span.channels; ++i) span.state[i] = state[i];
  }
};

template <class A>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    A carry[kChannels], zeros[kChannels] = {};
    for (int64_t i = 0; i < span.channels; ++i) {
      carry[i] = span.dstate != nullptr ? span.dstate[i] : A(0);
      span.dbound[i] = A(0);
    }
    for (int64_t t = span.length - 1; t >= 0; --t) {
      S* du = span.dinput + t * span.D;
      S* dv = span.dforget + t * span.D;
      Step step = Step::Go;
      if (span.segments != nullptr && span.segments[t] == kPadding) {
        step = Step::Skip;
      } else if (span.segments != nullptr) {
        int32_t last = kPadding;
        for (int64_t s = t - 1; s >= 0 && last == kPadding; --s) last = span.segments[s];
        step = step_at(span.segments, t, last);
      }
      if (step == Step::Skip) {
        simd::sweep<V>(
            span.channels, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              simd::store(du + i, V{}, lanes);
              simd::store(dv + i, V{}, lanes);
            });
        continue;
      }
      const S* u = span.input + t * span.D;
      const S* v = span.forget + t * span.D;
      const S* dh = span.dh + t * span.D;
      const A keep = step == Step::Restart ? A(0) : A(1);
      const S* before = t > 0 ? span.held + (t - 1) * span.D : nullptr;
      const A* first = span.initial != nullptr ? span.initial : zeros;
      simd::sweep<V>(
          span.channels, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V x = simd::load<V>(u + i, lanes);
            const auto gate = sigmoid(simd::load<V>(v + i, lanes)), self = sigmoid(x);
            V f = gate.value, open = gate.complement;
            V rest = simd::broadcast<V>(A(1));
            if (span.bound != nullptr) {
              const V b = simd::load<V>(span.bound + i, lanes);
              rest = A(1) - b;
              open = rest * open;
              f = b + rest * f;
            }
            const V h =
                (t > 0 ? simd::load<V>(before + i, lanes) : simd::load<V>(first + i, lanes)) * keep;
            const V c = simd::load<V>(dh + i, lanes) + simd::load<V>(carry + i, lanes);
            const V df = c * (h - x * self.value);
            simd::store(du + i,
                        static_cast<V>(c * open * self.value * (A(1) + x * self.complement)),
                        lanes);
            simd::store(dv + i, static_cast<V>(df * rest * gate.value * gate.complement), lanes);
            simd::store(
                span.dbound + i,
                static_cast<V>(simd::load<V>(span.dbound + i, lanes) + df * gate.complement),
                lanes);
            simd::store(carry + i, static_cast<V>(f * c * keep), lanes);
          });
    }
    for (int64_t i = 0; i < span.channels; ++i) span.dinitial[i] = carry[i];
  }
};

// Channels of a task: all of a row where there are rows enough for the threads, because a row of
// many tokens is read from memory in whole pages then. Channels do not know of one another: the
// bits are the same for any cut.
int64_t channels_of_task(int64_t rows, int64_t D) {
  const int64_t threads = at::get_num_threads();
  int64_t blocks = std::max<int64_t>(1, (D + kChannels - 1) / kChannels);
  while (rows * blocks < 4 * threads && rows * blocks % threads != 0) ++blocks;
  const int64_t channels = (D + blocks - 1) / blocks;
  return std::min(kChannels, (channels + kChannelStep - 1) / kChannelStep * kChannelStep);
}

// body(row, first channel, channels)
template <class Body>
void for_tasks(int64_t rows, int64_t D, const Body& body) {
  const int64_t width = channels_of_task(rows, D), blocks = (D + width - 1) / width;
  for_blocks(rows * blocks, 1, [&](int64_t task, int64_t, int64_t) {
    const int64_t begin = task % blocks * width;
    body(task / blocks, begin, std::min(width, D - begin));
  });
}

template <class S, class A>
Span<S, A> span_of(const Inputs& in, int64_t row, int64_t first, int64_t channels) {
  const int64_t T = in.input_BTD.size(1), D = in.input_BTD.size(2);
  const int64_t at = row * T * D + first;
  Span<S, A> span;
  span.input = in.input_BTD.const_data_ptr<S>() + at;
  span.forget = in.forget_BTD.const_data_ptr<S>() + at;
  if (in.bound_D.defined()) span.bound = in.bound_D.const_data_ptr<A>() + first;
  if (in.segments_BT.defined()) span.segments = in.segments_BT.const_data_ptr<int32_t>() + row * T;
  if (in.initial_BD.defined()) span.initial = in.initial_BD.const_data_ptr<A>() + row * D + first;
  span.length = T;
  span.channels = channels;
  span.D = D;
  return span;
}

at::TensorOptions wide(const Tensor& x) {
  return x.options().dtype(accumulate_dtype(x.scalar_type()));
}

}  // namespace gated_scan_cpu_detail

using namespace gated_scan_cpu_detail;

GatedScan forward(const Inputs& in) {
  const Tensor& x = in.input_BTD;
  const int64_t B = x.size(0), T = x.size(1), D = x.size(2);
  GatedScan out{at::empty(x.sizes(), x.options()), at::empty({B, D}, wide(x))};
  with_types(x, [&]<class S, class A>(S, A) {
    for_tasks(B, D, [&](int64_t row, int64_t first, int64_t channels) {
      Span<S, A> span = span_of<S, A>(in, row, first, channels);
      span.h = out.h_BTD.mutable_data_ptr<S>() + row * T * D + first;
      span.state = out.state_BD.mutable_data_ptr<A>() + row * D + first;
      simd::run<Forward<A>>(span);
    });
  });
  return out;
}

Gradients backward(const Tensor& dh_BTD, const Tensor& dstate_BD, const Inputs& in,
                   const Tensor& h_BTD) {
  const Tensor& x = in.input_BTD;
  const int64_t B = x.size(0), T = x.size(1), D = x.size(2);
  Gradients out{at::empty(x.sizes(), x.options()), at::empty(x.sizes(), x.options()),
                at::zeros({D}, wide(x)), at::empty({B, D}, wide(x))};
  const Tensor by_row = at::empty({B, D}, wide(x));
  const Tensor dh = dh_BTD.contiguous();
  const Tensor dstate = dstate_BD.defined() ? dstate_BD.contiguous() : Tensor();
  with_types(x, [&]<class S, class A>(S, A) {
    for_tasks(B, D, [&](int64_t row, int64_t first, int64_t channels) {
      const int64_t at = row * T * D + first, flat = row * D + first;
      Span<S, A> span = span_of<S, A>(in, row, first, channels);
      span.held = h_BTD.const_data_ptr<S>() + at;
      span.dh = dh.const_data_ptr<S>() + at;
      if (dstate.defined()) span.dstate = dstate.const_data_ptr<A>() + flat;
      span.dinput = out.input_BTD.mutable_data_ptr<S>() + at;
      span.dforget = out.forget_BTD.mutable_data_ptr<S>() + at;
      span.dbound = by_row.mutable_data_ptr<A>() + flat;
      span.dinitial = out.initial_BD.mutable_data_ptr<A>() + flat;
      simd::run<Backward<A>>(span);
    });
    A* sum = out.bound_D.mutable_data_ptr<A>();
    for (int64_t b = 0; b < B; ++b) {
      const A* from = by_row.const_data_ptr<A>() + b * D;
      for (int64_t i = 0; i < D; ++i) sum[i] += from[i];
    }
  });
  return out;
}

}  // namespace strata::ops::gated_scan_cpu
