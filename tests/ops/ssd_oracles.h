#pragma once
// The scan token by token, and the mixing matrix of two scans written out: what ssd.h and
// quasiseparable.h are compared with. Differentiable, fp64, one row of one sequence at a time.
#include <ATen/TensorOperators.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "core/ops/quasiseparable.h"
#include "core/ops/ssd.h"

namespace strata::testing {

// B or C [B,T,G,N] of token t for each of H heads.
inline Tensor of_heads(const Tensor& v_BTGN, int64_t t, int64_t H) {
  const int64_t G = v_BTGN.size(2);
  return v_BTGN.select(1, t).repeat_interleave(H / G, 1);
}

inline ops::SsdResult ssd_by_token(const Tensor& x, const Tensor& dt, const Tensor& A,
                                   const Tensor& B, const Tensor& C, Tensor state, bool reverse) {
  const int64_t rows = x.size(0), T = x.size(1), H = x.size(2);
  if (!state.defined()) {
    state = at::zeros({rows, H, x.size(3), B.size(3)}, x.options());
  }
  std::vector<Tensor> y;
  for (int64_t n = 0; n < T; ++n) {
    const int64_t t = reverse ? T - 1 - n : n;
    const Tensor keep = (dt.select(1, t) * A).exp().unsqueeze(-1).unsqueeze(-1);
    const Tensor write = (dt.select(1, t).unsqueeze(-1) * x.select(1, t)).unsqueeze(-1) *
                         of_heads(B, t, H).unsqueeze(-2);
    state = state * keep + write;
    y.push_back((state * of_heads(C, t, H).unsqueeze(-2)).sum(-1));
  }
  if (reverse) {
    std::reverse(y.begin(), y.end());
  }
  return {at::stack(y, 1), state};
}

// [B,H,T,T]: entry (i, j) is what output i takes from input j.
inline Tensor mixing_matrix(const Tensor& A, const ops::ScanInputs& f, const ops::ScanInputs& b,
                            const Tensor& delta) {
  const int64_t rows = delta.size(0), T = delta.size(1), H = delta.size(2);
  std::vector<Tensor> lines;
  for (int64_t i = 0; i < T; ++i) {
    std::vector<Tensor> line;
    for (int64_t j = 0; j < T; ++j) {
      if (i == j) {
        line.push_back(delta.select(1, i));
        continue;
      }
      const auto& scan = i > j ? f : b;
      const int64_t read = i > j ? i - 1 : i + 1;
      Tensor log = at::zeros({rows, H}, delta.options());
      for (int64_t u = std::min(read, j + 1); u <= std::max(read, j - 1); ++u) {
        const bool between = i > j ? (u >= j + 1 && u <= i - 1) : (u >= i + 1 && u <= j - 1);
        if (between) {
          log = log + scan.dt_BTH.select(1, u) * A;
        }
      }
      const Tensor product = (of_heads(scan.C_BTGN, read, H) * of_heads(scan.B_BTGN, j, H)).sum(-1);
      line.push_back(product * log.exp() * scan.dt_BTH.select(1, j));
    }
    lines.push_back(at::stack(line, -1));
  }
  return at::stack(lines, -2);
}

}  // namespace strata::testing
