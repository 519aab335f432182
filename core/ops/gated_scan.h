#pragma once
// The token mixer of MatMul-free models, elementwise over D channels:
//
//   f_t = sigmoid(forget_t)            without bound_D
//   f_t = b + (1 - b) sigmoid(forget_t) with bound_D = b
//   h_t = f_t h_{t-1} + silu(input_t) (1 - f_t)
//
// State, gates and sums in fp32 (fp64 for fp64 inputs); h in the dtype of the inputs. Memory is
// linear in T: forward keeps its inputs and h.
#include "core/tensor.h"

namespace strata::ops {

struct GatedScan {
  Tensor h_BTD;
  Tensor state_BD;  // after the last token; accumulate dtype
};
// initial_BD undefined: zeros. segments_BT int32 or undefined: the state restarts at zero where the
// number changes within a row; tokens of segment -1 are padding: they change no state, their h is
// the state they find and no gradient flows through it.
GatedScan gated_scan(const Tensor& input_BTD, const Tensor& forget_BTD, const Tensor& bound_D,
                     const Tensor& segments_BT, const Tensor& initial_BD);
GatedScan gated_scan_composite(const Tensor& input_BTD, const Tensor& forget_BTD,
                               const Tensor& bound_D, const Tensor& segments_BT,
                               const Tensor& initial_BD);

// Lower bounds of the forget gates of all layers: with P = softmax over layers of theta_LD, layer l
// has b = P_1 + .. + P_l; the first layer none. [D].
Tensor gate_bound(const Tensor& theta_LD, int64_t layer);

}  // namespace strata::ops
