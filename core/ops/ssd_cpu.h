#pragma once
// CPU kernels of ssd.h and quasiseparable.h: one or two scans over the same x, their outputs
// summed.
#include <vector>

#include "core/tensor.h"

namespace strata::ops::ssd_cpu {

// H heads of width P, G groups of heads that share B and C, states [P,N].
struct Scan {
  Tensor dt_BTH;          // accumulate dtype of x, contiguous
  Tensor B_BTGN, C_BTGN;  // dtype of x
  Tensor initial_BHPN;    // accumulate dtype, contiguous; undefined: zeros
  bool reverse = false;   // from the last token to the first
};

struct Problem {
  Tensor x_BTHP;
  Tensor A_H;  // accumulate dtype, contiguous
  std::vector<Scan> scans;
  Tensor delta_BTH;    // accumulate dtype, contiguous; undefined: no diagonal term
  Tensor segments_BT;  // int32, contiguous; undefined: one sequence per row
  // 0: token t reads the state after itself; 1: the state after the token before it in the scan.
  int64_t shift = 0;
  int64_t chunk = 64;
};

struct Output {
  Tensor y_BTHP;                     // dtype of x, contiguous
  std::vector<Tensor> final_states;  // [B,H,P,N] of each scan, accumulate dtype
};
Output forward(const Problem& problem);

struct ScanGradients {
  Tensor dt_BTH, B_BTGN, C_BTGN, initial_BHPN;  // the last only where the problem has one
};
struct Gradients {
  Tensor x_BTHP, A_H, delta_BTH;
  std::vector<ScanGradients> scans;
};
// dfinal: gradients of the final states, one per scan; undefined: zeros.
Gradients backward(const Problem& problem, const Tensor& dy_BTHP,
                   const std::vector<Tensor>& dfinal);

}  // namespace strata::ops::ssd_cpu
