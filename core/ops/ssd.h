#pragma once
// The state-space scan with a scalar decay per head (SSD). B batch, T time, H heads of width P, N
// state width, G groups of heads: head h uses B and C of group h / (H / G).
//
//   S_t = exp(dt_t A) S_{t-1} + dt_t x_t (outer) B_t        state [P,N], S_{-1} = initial or zero
//   y_t = S_t C_t
//
// dt [B,T,H] >= 0 and A [H] <= 0 are taken in fp32 (fp64 for fp64 inputs), as are states, decays
// and all sums; B and C have the dtype of x, y too. A token with dt = 0 neither decays nor writes
// the state: that is how padding is made inert. Work is linear in T: within chunks pairs of tokens
// are formed, between chunks the state is handed on. Kept for the backward are the inputs alone.
#include "core/tensor.h"

namespace strata::ops {

struct SsdOptions {
  bool reverse = false;  // from the last token to the first
  int64_t chunk = 64;    // tokens of a chunk; the result does not depend on it but for rounding
};

struct SsdResult {
  Tensor y;      // [B,T,H,P]
  Tensor state;  // [B,H,P,N] after the last token of the scan, accumulate dtype; differentiable
};

// segments_BT [B,T] int32, undefined: one sequence per row; otherwise the state restarts from zero
// where the value changes. initial_BHPN undefined: zeros.
SsdResult ssd(const Tensor& x_BTHP, const Tensor& dt_BTH, const Tensor& A_H, const Tensor& B_BTGN,
              const Tensor& C_BTGN, const Tensor& segments_BT = {}, const Tensor& initial_BHPN = {},
              SsdOptions options = {});
// The same chunks as ATen operations.
SsdResult ssd_composite(const Tensor& x_BTHP, const Tensor& dt_BTH, const Tensor& A_H,
                        const Tensor& B_BTGN, const Tensor& C_BTGN, const Tensor& segments_BT = {},
                        const Tensor& initial_BHPN = {}, SsdOptions options = {});

}  // namespace strata::ops
