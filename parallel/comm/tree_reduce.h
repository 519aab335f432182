#pragma once
// The one order in which CPU backends sum: a binary tree over ranks, pairs (0,1), (2,3), ..., then
// pairs of results. fp64 is accumulated in fp64, other floating types in fp32 with one rounding,
// integers exactly in their own type; for bool, Sum and Max are "or", Min is "and". Min and Max
// hand on NaN. Private to parallel/comm.
#include <cstdint>

#include "core/tensor.h"
#include "parallel/comm/communicator.h"

namespace strata {

// to[k][i] = from[0][i] op ... op from[n-1][i] for i < count and each of the m results. A result
// may be one of the inputs (same address); other overlaps are not allowed.
void tree_reduce(at::ScalarType dtype, ReduceOp op, const void* const* from, int n, void* const* to,
                 int m, int64_t count);

}  // namespace strata
