#pragma once
// Gated delta product: a linear recurrence whose transition is a product of n generalised
// Householder reflections per token (DeltaProduct; n = 1: DeltaNet and Gated DeltaNet). Called by
// the mixers of models/deltaproduct.
//
// Per row and head, state S [K, V], micro-steps m = t n + j, j = 0..n-1 of token t:
//   S   <- exp(gate_t) S                                    once per token, before its first step
//   S   <- S + beta_m k_m^T (v_m - k_m S)                   for each of its n steps
//   o_t  = q_t S                                            once per token, after its last step
//
// B rows, T tokens, M = T n micro-steps, H heads, K key width, V value width.
//   q_BTHK, k_BMHK, v_BMHV   one dtype (fp64, fp32, bf16); the caller scales q
//   gate_BTH                 log decay <= 0, accumulate dtype; undefined: no decay
//   beta_BMH                 accumulate dtype; in [0, 2] with |k| <= 1 no factor expands
//   segments_BT              int32; the state restarts where the value changes from one token to
//                            the next that is not padding (-1). A padded token neither decays nor
//                            writes; its output is 0 and so are its gradients. Undefined: one
//                            document per row, no padding.
//   initial_state_BHKV       accumulate dtype; the state before the first token's document;
//                            undefined: zeros
// Results: o_BTHV in the dtype of v; state_BHKV after the last token that is not padding, in the
// accumulate dtype. Both are differentiable in all of q, k, v, gate, beta and initial_state.
//
// Values inside are held in the accumulate dtype (fp32; fp64 for fp64), cumulated gates in fp64,
// and only differences <= 0 of them are exponentiated. Keys longer than 1 are legal but may make
// the chunk's triangular system badly conditioned: normalise them (ops::l2_normalise).
#include "core/tensor.h"

namespace strata::ops {

struct DeltaProductInputs {
  Tensor q_BTHK, k_BMHK, v_BMHV;
  Tensor gate_BTH;
  Tensor beta_BMH;
  Tensor segments_BT;
  Tensor initial_state_BHKV;
};

struct DeltaProductResult {
  Tensor o_BTHV;
  Tensor state_BHKV;
};

// Chunk form. CPU: own kernels, one task per (row, head). Elsewhere: the composite.
DeltaProductResult delta_product(const DeltaProductInputs& in);

// Chunk form as a composition of LibTorch's operators, all rows and heads at once.
DeltaProductResult delta_product_composite(const DeltaProductInputs& in);

// Token by token, as the recurrence is written above: the oracle of tests. Cost grows with T in
// operator calls; keeps every state when gradients are wanted.
DeltaProductResult delta_product_recurrent(const DeltaProductInputs& in);

// Micro-steps of a chunk (whole tokens; one token when it has more steps than this).
inline constexpr int64_t kDeltaChunk = 64;

}  // namespace strata::ops
