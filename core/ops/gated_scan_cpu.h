#pragma once
// CPU kernels of gated_scan.h. One task takes a row and a block of channels through all tokens, the
// channels side by side in registers.
#include "core/ops/gated_scan.h"

namespace strata::ops::gated_scan_cpu {

struct Inputs {
  Tensor input_BTD, forget_BTD;
  Tensor bound_D;      // accumulate dtype, or undefined
  Tensor segments_BT;  // int32, contiguous, or undefined
  Tensor initial_BD;   // accumulate dtype, contiguous, or undefined
};
GatedScan forward(const Inputs& in);

struct Gradients {
  Tensor input_BTD, forget_BTD, bound_D, initial_BD;
};
// dstate_BD may be undefined.
Gradients backward(const Tensor& dh_BTD, const Tensor& dstate_BD, const Inputs& in,
                   const Tensor& h_BTD);

}  // namespace strata::ops::gated_scan_cpu
