#pragma once
// CPU kernel of rope.h.
#include "core/ops/rope.h"

namespace strata::ops::rope_cpu {

// Rotation by the angles of the table, or back by them (the backward). y is contiguous.
enum class Turn { Forward, Back };
Tensor rotate(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table, Turn turn);

}  // namespace strata::ops::rope_cpu
