#pragma once
// Depthwise convolution over time: each of C channels is filtered by W taps of its own.
//
//   u[b,t,c] = bias[c] + sum over k of weight[c,0,k] * x[b, t + k - before, c]
//   y = u, or silu(u)
//
// Causal padding: before = W - 1, token t sees itself and the W - 1 tokens before it. Same padding:
// W odd, before = W/2 (rounded down), as many tokens after as before. Tokens beyond the ends count
// as zeros. Computed in fp32 (fp64 for fp64 inputs), y in the dtype of x; weight and bias may be
// fp32 beside 16-bit activations. The weight gradient does not depend on the number of threads.
//
// Used by the mixers of the recurrent families (short convolution, Causal) and of Hydra (Same).
#include "core/tensor.h"

namespace strata::ops {

enum class Padding { Causal, Same };

struct ConvResult {
  Tensor y;  // [B,T,C]
  Tensor
      tail;  // Causal: [B,W-1,C], the last inputs, for the next call's initial_tail; else undefined
};

// bias_C undefined: none. segments_BT [B,T] int32, undefined: every row is one sequence. Otherwise
// taps reach tokens of the same segment only; tokens of segment -1 are padding: they count as
// zeros and y is zero there. initial_tail [B,W-1,C] (Causal only; undefined: zeros): the inputs
// before token 0, of token 0's segment.
ConvResult depthwise_conv(const Tensor& x_BTC, const Tensor& weight_C1W, const Tensor& bias_C,
                          Padding padding, bool silu, const Tensor& segments_BT = {},
                          const Tensor& initial_tail = {});
ConvResult depthwise_conv_composite(const Tensor& x_BTC, const Tensor& weight_C1W,
                                    const Tensor& bias_C, Padding padding, bool silu,
                                    const Tensor& segments_BT = {},
                                    const Tensor& initial_tail = {});

// Widest filter of the CPU kernel; wider ones are refused.
inline constexpr int64_t kMostTaps = 32;

}  // namespace strata::ops
