#pragma once
// The permutations of monarch.h as kernels: features (member, group) of each row <-> one matrix per
// group. Groups are few (4 usually), so a row is read once and written as `groups` streams.
#include "core/tensor.h"

namespace strata::ops::monarch_cpu {

// x [N, members * groups], feature = member * groups + group -> [groups, N, members].
Tensor split_groups(const Tensor& x_NF, int64_t groups);
// The reverse; the first `features` of each row.
Tensor join_groups(const Tensor& x_GNM, int64_t features);

}  // namespace strata::ops::monarch_cpu
