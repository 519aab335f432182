#pragma once
// y = x W^T (+ b). x [..., in], W [out, in], b [out]. When W is stored in a wider type than x it is
// cast at use. The backward reads W anew: no cast copy is kept, and W's values may have moved to
// other storage since the forward (Tensor::set_data).
#include "core/tensor.h"

namespace strata::ops {

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);

// [.., H*K] -> [.., H, K] and back; views where possible.
Tensor split_heads(const Tensor& x, int64_t head_width);
Tensor merge_heads(const Tensor& x);

}  // namespace strata::ops
