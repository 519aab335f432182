#pragma once
// The matrix mixer of Hydra: every token sees all others, at a cost linear in the number of tokens.
// Letters as in ssd.h; forward and backward scan share x and A, and have dt, B and C of their own.
//
//   y_t = Zf_{t-1} + Zb_{t+1} + delta_t x_t
//
// Zf: outputs of the scan from left to right, Zb: from right to left (both zero beyond the ends),
// delta [B,T,H] a scalar per head. So the scans bring what lies strictly before and strictly
// after a token, and the diagonal of the mixing matrix is free.
#include "core/tensor.h"

namespace strata::ops {

struct ScanInputs {
  Tensor dt_BTH;          // >= 0; 0 at padded tokens
  Tensor B_BTGN, C_BTGN;  // dtype of x
};

// initial_HPN: state before the first token of either scan, of every row (undefined: zero).
// segments_BT: tokens of other segments are not seen (undefined: one sequence per row); states then
// restart from zero.
Tensor quasiseparable(const Tensor& x_BTHP, const Tensor& A_H, const ScanInputs& forward,
                      const ScanInputs& backward, const Tensor& delta_BTH,
                      const Tensor& segments_BT = {}, const Tensor& initial_HPN = {},
                      int64_t chunk = 64);
Tensor quasiseparable_composite(const Tensor& x_BTHP, const Tensor& A_H, const ScanInputs& forward,
                                const ScanInputs& backward, const Tensor& delta_BTH,
                                const Tensor& segments_BT = {}, const Tensor& initial_HPN = {},
                                int64_t chunk = 64);

}  // namespace strata::ops
