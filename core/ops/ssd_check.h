#pragma once
// What ssd.h and quasiseparable.h require of the tensors of one scan.
#include "core/tensor.h"

namespace strata::ops {
void check_scan(const char* op, const Tensor& x_BTHP, const Tensor& dt_BTH, const Tensor& A_H,
                const Tensor& B_BTGN, const Tensor& C_BTGN, const Tensor& segments_BT,
                const Tensor& initial_BHPN);
}  // namespace strata::ops
