#pragma once
// CPU kernels of gla.h: a head's chunk and state in cache. Inputs are checked by the caller; g and
// the states are of the accumulate dtype of q.
#include "core/tensor.h"

namespace strata::ops::gla_cpu {

struct Inputs {
  Tensor q_BTHK, k_BTGK, v_BTGV, g_BTGK;
  Tensor segments_BT;         // may be undefined
  Tensor initial_state_BHKV;  // may be undefined: zeros
  double scale = 1;
};

struct Outputs {
  Tensor o_BTHV, state_BHKV;
  Tensor kept_LBHKV;  // states at every 512th token but the first, for the backward
};
Outputs forward(const Inputs& in);            // chunks of 64 tokens
Outputs forward_by_tokens(const Inputs& in);  // the recurrence; cheaper for a few tokens

struct Gradients {
  Tensor q, k, v, g, initial_state;
};
// do_BTHV and dstate_BHKV may be undefined: zeros. kept_LBHKV: from the forward, for more than 512
// tokens. initial_state is filled only where wanted.
Gradients backward(const Tensor& do_BTHV, const Tensor& dstate_BHKV, const Inputs& in,
                   const Tensor& kept_LBHKV, bool want_initial_state);

}  // namespace strata::ops::gla_cpu
