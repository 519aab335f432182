#pragma once
// Gated linear attention: a matrix-valued state whose rows (keys) decay by a gate of their own.
//
//   S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T          o_t = scale * q_t S_t
//
// B batch, T time, H query heads, G key/value heads (H a multiple of G; query head h reads key head
// h / (H/G)), K key width, V value width of a head. State, sums, decays and exponents are fp32
// (fp64 for fp64 inputs); o has the dtype of q. Time and memory are linear in T; the backward keeps
// the inputs and the state at every 512th token, and recomputes the rest.
//
// Decays may be as strong as they like: nothing is ever divided by one.
#include "core/tensor.h"

namespace strata::ops {

struct GlaResult {
  Tensor o_BTHV;      // dtype of q
  Tensor state_BHKV;  // after the last token, accumulate dtype
};

// q_BTHK, k_BTGK, v_BTGV of one dtype. g_BTGK <= 0: log decays, in the accumulate dtype or
// converted to it. segments_BT int32 or undefined: the state restarts at zero where the value
// changes; -1 is padding, which neither decays nor writes the state, whose output is zero and whose
// gradients are zero. initial_state_BHKV: undefined is zeros; it belongs to the first segment.
GlaResult gla(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGV,
              const Tensor& g_BTGK, const Tensor& segments_BT, const Tensor& initial_state_BHKV,
              double scale);

// The same with plain ops, chunk by chunk, on any device.
GlaResult gla_composite(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGV,
                        const Tensor& g_BTGK, const Tensor& segments_BT,
                        const Tensor& initial_state_BHKV, double scale);

// The two equations above, token by token with plain ops: the oracle of the tests.
GlaResult gla_recurrent(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGV,
                        const Tensor& g_BTGK, const Tensor& segments_BT,
                        const Tensor& initial_state_BHKV, double scale);

}  // namespace strata::ops
