#pragma once
// Causal softmax attention with grouped key/value heads.
//
//   o_t = sum_{s <= t, same segment} softmax_s(scale * q_t . k_s) v_s
//
// B batch, T time, H query heads, G key/value heads (H a multiple of G; query head h reads key head
// h / (H/G)), K head width. Scores, softmax and sums are fp32 (fp64 for fp64 inputs); output in the
// dtype of q.
#include <cstdint>
#include <string>

#include "core/tensor.h"

namespace strata::ops {

// Attention dropout with layout-free masks: probability of (row, head, t, s) is dropped by element
// ((first_row + b) * total_heads + first_head + h) * T * T + t * T + s of the stream `name`.
struct AttentionDropout {
  double prob = 0;
  uint64_t seed = 0;
  std::string name;
  uint32_t step = 0;
  int64_t first_row = 0, first_head = 0, total_heads = 0;
};

// segments: [B, T] int32 or undefined; tokens of different segments do not see each other, -1 sees
// only itself. The queries may be fewer than the keys (generation): they stand at the last
// positions then, and neither segments nor dropout are possible.
Tensor causal_attention(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGK,
                        const Tensor& segments_BT, double scale,
                        const AttentionDropout& dropout = {});

// The definition written with plain ops: any device, differentiable by autograd, the oracle of the
// tests.
Tensor causal_attention_composite(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGK,
                                  const Tensor& segments_BT, double scale,
                                  const AttentionDropout& dropout = {});

}  // namespace strata::ops
