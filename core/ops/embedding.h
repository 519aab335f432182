#pragma once
// Rows of a table that may be cut: weight [rows here, D] holds rows [first_row, first_row + rows
// here) of the logical table; tokens outside give 0. The gradient is summed in fp32 (fp64 for fp64)
// in increasing token position, whatever the number of threads, and rounded once. tokens [...]
// int64 -> [..., D] in the dtype of weight.
#include "core/tensor.h"

namespace strata::ops {

Tensor embedding(const Tensor& weight, const Tensor& tokens, int64_t first_row = 0);

}  // namespace strata::ops
