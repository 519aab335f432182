#pragma once
// The residual stream as n parallel streams of C features (hyper-connections, Zhu et al. 2024;
// mHC, Xie et al. 2025; mHC-lite, 2026): [B, T, n C], stream s at features [s C, (s + 1) C).
// Coefficients are fp32 (fp64 in fp64 runs) whatever the dtype of the streams; sums are formed in
// that precision and rounded once.
//
// Symbols: s source stream, t target stream.
#include "core/tensor.h"

namespace strata::ops {

// n copies of x: [B, T, C] -> [B, T, n C].
Tensor expand_streams(const Tensor& x_BTC, int64_t streams);
// Sum over streams: [B, T, n C] -> [B, T, C].
Tensor sum_streams(const Tensor& x_BTnC, int64_t streams);

// u = sum_s read_s x_s: what a branch is given. read [B, T, n].
Tensor read_streams(const Tensor& x_BTnC, const Tensor& read_BTn);
Tensor read_streams_composite(const Tensor& x_BTnC, const Tensor& read_BTn);

// x'_t = sum_s mix[s, t] x_s + write_t y. mix [B, T, n, n] is indexed (source, target): it is
// applied transposed, as in the reference code. write [B, T, n], y [B, T, C].
Tensor write_streams(const Tensor& x_BTnC, const Tensor& y_BTC, const Tensor& mix_BTnn,
                     const Tensor& write_BTn);
Tensor write_streams_composite(const Tensor& x_BTnC, const Tensor& y_BTC, const Tensor& mix_BTnn,
                               const Tensor& write_BTn);

// sqrt(D) / max(|x|, 1e-12) * x W for x [..., D], W [D, M]: the product of a row normalised to root
// mean square 1, without forming the normalised row. Result [..., M] and sums in the dtype of W
// (fp32 or fp64).
Tensor normalised_product(const Tensor& x, const Tensor& weight_DM);

}  // namespace strata::ops
