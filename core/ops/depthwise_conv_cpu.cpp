// A task is a block of tokens of one row; it walks the channels one register at a time and keeps
// the taps of these channels in registers, so each input row is loaded W times from the first-level
// cache and once from memory. The backward computes the pre-activation again, for the tokens of its
// block and the few around it that its inputs reach.
#include "core/ops/depthwise_conv_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "core/ops/cpu_rows.h"
#include "core/ops/depthwise_conv.h"
#include "core/ops/simd.h"

namespace strata::ops::depthwise_conv_cpu {

namespace depthwise_conv_cpu_detail {

constexpr int64_t kBlockTokens = 64;
using Taps = uint64_t;  // bit k: tap k counts
constexpr Taps kPadded = Taps{1} << 63;

// One row of the batch, or a block of it. Token indices are those of the row.
template <class S, class A>
struct Span {
  const S* x = nullptr;  // token 0 of the row
  int64_t x_stride = 0;
  const S* dy = nullptr;
  int64_t dy_stride = 0;
  S* out = nullptr;  // y or dx of token 0, rows of `channels`; null: not wanted
  const A* weight = nullptr;
  const A* bias = nullptr;
  A* dweight = nullptr;  // null: not wanted
  A* dbias = nullptr;
  int64_t channels = 0, taps = 0, before = 0, tokens = 0;
  int64_t begin = 0, end = 0;    // tokens of this block
  int64_t first = 0, last = 0;   // backward: tokens whose du is needed
  const Taps* seen = nullptr;    // of token `first` (forward: `begin`) on: inputs that it sees
  const Taps* seeing = nullptr;  // of token `begin` on: outputs that see it
  bool silu = false;
};

template <class V>
[[gnu::always_inline]] inline V sigmoid(const V& u) {
  return simd::Scalar<V>(1) / (simd::Scalar<V>(1) + simd::exp(static_cast<V>(-u)));
}

// sum + the taps of `which` times input rows `step` apart, the first at p.
template <class V, int W, class S, class Lanes>
[[gnu::always_inline]] inline V filtered(const V& start, const V* weight, int64_t taps, const S* p,
                                         int64_t step, Taps which, Lanes lanes) {
  V sum = start;
  if (which == (Taps{1} << taps) - 1) {
    if constexpr (W > 0) {
#pragma GCC unroll 8
      for (int k = 0; k < W; ++k) {
        sum += weight[k] * simd::load<V>(p + k * step, lanes);
      }
    } else {
      for (int64_t k = 0; k < taps; ++k) {
        sum += weight[k] * simd::load<V>(p + k * step, lanes);
      }
    }
    return sum;
  }
  for (int64_t k = 0; k < taps; ++k) {
    if ((which >> k & 1) != 0) {
      sum += weight[k] * simd::load<V>(p + k * step, lanes);
    }
  }
  return sum;
}

// W: number of taps, 0: span.taps, only known while running.
template <class A, int W>
struct Forward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t taps = W > 0 ? W : span.taps, C = span.channels;
    simd::sweep<V>(
        C, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
          V weight[W > 0 ? W : kMostTaps];
          for (int64_t k = 0; k < taps; ++k) {
            weight[k] = simd::load<V>(span.weight + k * C + c, lanes);
          }
          const V bias = span.bias != nullptr ? simd::load<V>(span.bias + c, lanes) : V{};
          for (int64_t t = span.begin; t < span.end; ++t) {
            const Taps which = span.seen[t - span.begin];
            if (which == kPadded) {
              simd::store(span.out + t * C + c, V{}, lanes);
              continue;
            }
            V u = filtered<V, W>(bias, weight, taps, span.x + (t - span.before) * span.x_stride + c,
                                 span.x_stride, which, lanes);
            if (span.silu) {
              u = u * sigmoid(u);
            }
            simd::store(span.out + t * C + c, u, lanes);
          }
        });
  }
};

// du = dy silu'(u);  dx[s] = sum over k of w[k] du[s - k + before];  dw[k] = sum over t of du[t]
// x[t + k - before];  dbias = sum of du.
template <class A, int W>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    const int64_t taps = W > 0 ? W : span.taps, C = span.channels;
    simd::sweep<V>(
        C, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
          V weight[W > 0 ? W : kMostTaps], dweight[W > 0 ? W : kMostTaps];
          for (int64_t k = 0; k < taps; ++k) {
            weight[k] = simd::load<V>(span.weight + k * C + c, lanes);
            dweight[k] = V{};
          }
          const V bias = span.bias != nullptr ? simd::load<V>(span.bias + c, lanes) : V{};
          V dbias{};
          V du_of[kBlockTokens + kMostTaps];
          for (int64_t t = span.first; t < span.last; ++t) {
            const Taps which = span.seen[t - span.first];
            V du{};
            if (which != kPadded) {
              du = simd::load<V>(span.dy + t * span.dy_stride + c, lanes);
              if (span.silu) {
                const V u = filtered<V, W>(bias, weight, taps,
                                           span.x + (t - span.before) * span.x_stride + c,
                                           span.x_stride, which, lanes);
                const V s = sigmoid(u);
                du = du * (s * (A(1) + u * (A(1) - s)));
              }
            }
            du_of[t - span.first] = du;
          }
          const V* du_block = du_of + (span.begin - span.first);
          if (span.dweight != nullptr || span.dbias != nullptr) {
            for (int64_t t = span.begin; t < span.end; ++t) {
              const V du = du_block[t - span.begin];
              dbias += du;
              const Taps which = span.seen[t - span.first];
              const S* x = span.x + (t - span.before) * span.x_stride + c;
              if (W > 0 && which == (Taps{1} << taps) - 1) {
#pragma GCC unroll 8
                for (int k = 0; k < W; ++k) {
                  dweight[k] += du * simd::load<V>(x + k * span.x_stride, lanes);
                }
                continue;
              }
              for (int64_t k = 0; k < taps; ++k) {
                if ((which >> k & 1) != 0) {
                  dweight[k] += du * simd::load<V>(x + k * span.x_stride, lanes);
                }
              }
            }
          }
          if (span.dweight != nullptr) {
            for (int64_t k = 0; k < taps; ++k) {
              A* to = span.dweight + k * C + c;
              simd::store(to, static_cast<V>(simd::load<V>(to, lanes) + dweight[k]), lanes);
            }
          }
          if (span.dbias != nullptr) {
            A* to = span.dbias + c;
            simd::store(to, static_cast<V>(simd::load<V>(to, lanes) + dbias), lanes);
          }
          if (span.out != nullptr) {
            for (int64_t s = span.begin; s < span.end; ++s) {
              const Taps which = span.seeing[s - span.begin];
              V dx{};
              for (int64_t k = 0; k < taps; ++k) {
                if ((which >> k & 1) != 0) {
                  dx += weight[k] * du_of[s - k + span.before - span.first];
                }
              }
              simd::store(span.out + s * C + c, dx, lanes);
            }
          }
        });
  }
};

// Which taps of tokens [first, last) of a row count: tap k looks `direction * (k - before)` tokens
// ahead.
void find_taps(const int32_t* segments, int64_t tokens, int64_t taps, int64_t before, int direction,
               int64_t first, int64_t last, std::vector<Taps>& found) {
  found.resize(static_cast<size_t>(last - first));
  for (int64_t t = first; t < last; ++t) {
    Taps which = 0;
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t other = t + direction * (k - before);
      const bool inside = other >= 0 && other < tokens;
      which |= Taps{inside && (segments == nullptr || segments[other] == segments[t])} << k;
    }
    const bool padded = segments != nullptr && segments[t] < 0;
    found[static_cast<size_t>(t - first)] = padded ? (direction > 0 ? kPadded : 0) : which;
  }
}

template <template <class, int> class Kernel, class S, class A>
void run(const Span<S, A>& span) {
  switch (span.taps) {
    case 3:
      return simd::run<Kernel<A, 3>>(span);
    case 4:
      return simd::run<Kernel<A, 4>>(span);
    case 7:
      return simd::run<Kernel<A, 7>>(span);
    default:
      return simd::run<Kernel<A, 0>>(span);
  }
}

const int32_t* segments_of(const Filter& filter, int64_t row, int64_t tokens) {
  return filter.segments_BT.defined() ? filter.segments_BT.const_data_ptr<int32_t>() + row * tokens
                                      : nullptr;
}

}  // namespace depthwise_conv_cpu_detail

using namespace depthwise_conv_cpu_detail;

Tensor forward(const Tensor& x_BTC, const Filter& filter) {
  const int64_t B = x_BTC.size(0), T = x_BTC.size(1), C = x_BTC.size(2);
  const Rows x = rows_of(x_BTC);
  Tensor y = at::empty(x_BTC.sizes(), x_BTC.options());
  const int64_t blocks = (T + kBlockTokens - 1) / kBlockTokens;
  with_types(x_BTC, [&]<class S, class A>(S, A) {
    for_blocks(B * blocks, 1, [&](int64_t task, int64_t, int64_t) {
      const int64_t row = task / blocks, block = task % blocks;
      Span<S, A> span;
      span.x = x.data<S>() + row * T * x.stride;
      span.x_stride = x.stride;
      span.out = y.mutable_data_ptr<S>() + row * T * C;
      span.weight = filter.weight_WC.const_data_ptr<A>();
      span.bias = filter.bias_C.defined() ? filter.bias_C.const_data_ptr<A>() : nullptr;
      span.channels = C;
      span.taps = filter.weight_WC.size(0);
      span.before = filter.before;
      span.begin = block * kBlockTokens;
      span.end = std::min(T, span.begin + kBlockTokens);
      span.silu = filter.silu;
      std::vector<Taps> seen;
      find_taps(segments_of(filter, row, T), T, span.taps, span.before, 1, span.begin, span.end,
                seen);
      span.seen = seen.data();
      run<Forward>(span);
    });
  });
  return y;
}

Gradients backward(const Tensor& dy_BTC, const Tensor& x_BTC, const Filter& filter, Wanted wanted) {
  const int64_t B = x_BTC.size(0), T = x_BTC.size(1), C = x_BTC.size(2);
  const int64_t W = filter.weight_WC.size(0);
  const Rows x = rows_of(x_BTC), dy = rows_of(dy_BTC);
  Gradients gradients;
  if (wanted.x) {
    gradients.x = at::empty(x_BTC.sizes(), x_BTC.options());
  }
  // Partial sums of the weight gradients, at most about 64, each of a fixed run of blocks: how they
  // are cut depends on the shape only.
  constexpr int64_t kMostPartials = 64;
  const int64_t blocks = (T + kBlockTokens - 1) / kBlockTokens;
  const int64_t run_blocks = std::max<int64_t>(1, (B * blocks + kMostPartials - 1) / kMostPartials);
  const int64_t partials = (B * blocks + run_blocks - 1) / run_blocks;
  const auto options = filter.weight_WC.options();
  const Tensor dweight = wanted.weight ? at::zeros({partials, W, C}, options) : Tensor();
  const Tensor dbias = wanted.bias ? at::zeros({partials, C}, options) : Tensor();
  with_types(x_BTC, [&]<class S, class A>(S, A) {
    for_blocks(B * blocks, run_blocks, [&](int64_t partial, int64_t begin, int64_t end) {
      std::vector<Taps> seen, seeing;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / blocks, block = task % blocks;
        Span<S, A> span;
        span.x = x.data<S>() + row * T * x.stride;
        span.x_stride = x.stride;
        span.dy = dy.data<S>() + row * T * dy.stride;
        span.dy_stride = dy.stride;
        span.out = wanted.x ? gradients.x.mutable_data_ptr<S>() + row * T * C : nullptr;
        span.weight = filter.weight_WC.const_data_ptr<A>();
        span.bias = filter.bias_C.defined() ? filter.bias_C.const_data_ptr<A>() : nullptr;
        span.dweight = wanted.weight ? dweight.mutable_data_ptr<A>() + partial * W * C : nullptr;
        span.dbias = wanted.bias ? dbias.mutable_data_ptr<A>() + partial * C : nullptr;
        span.channels = C;
        span.taps = W;
        span.before = filter.before;
        span.begin = block * kBlockTokens;
        span.end = std::min(T, span.begin + kBlockTokens);
        span.first = std::max<int64_t>(0, span.begin + span.before - (W - 1));
        span.last = std::min(T, span.end + span.before);
        span.silu = filter.silu;
        const int32_t* segments = segments_of(filter, row, T);
        find_taps(segments, T, W, span.before, 1, span.first, span.last, seen);
        find_taps(segments, T, W, span.before, -1, span.begin, span.end, seeing);
        span.seen = seen.data();
        span.seeing = seeing.data();
        run<Backward>(span);
      }
    });
  });
  if (wanted.weight) {
    gradients.weight_WC = dweight.sum(0);
  }
  if (wanted.bias) {
    gradients.bias_C = dbias.sum(0);
  }
  return gradients;
}

}  // namespace strata::ops::depthwise_conv_cpu
