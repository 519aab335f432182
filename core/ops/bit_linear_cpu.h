#pragma once
// CPU kernels of bit_linear.h: one or two sweeps over each row. N rows, I features held here.
#include "core/ops/bit_linear.h"

namespace strata::ops::bit_linear_cpu {

// Sum of squares of x and largest |x gain| of each row.
void row_statistics(const Tensor& x_NI, const Tensor& gain_I, Tensor& squares_N, Tensor& largest_N);
// From the statistics of the whole rows of `width` features: q (int8, or the dtype of x), scale and
// rstd.
BitRows quantise(const Tensor& x_NI, const Tensor& gain_I, const Tensor& squares_N,
                 const Tensor& largest_N, int64_t width, const BitOptions& options, bool int8);
// rows factor_N common in `dtype`; the rows are int32 or of that dtype.
Tensor scaled_rows(const Tensor& rows_NO, const Tensor& factor_N, double common,
                   at::ScalarType dtype);
// Sum over features of beta dy gain x rstd.
Tensor norm_dots(const Tensor& dy_NI, const Tensor& x_NI, const Tensor& gain_I,
                 const Tensor& rstd_N, double beta);
// dx and dgain from the sums over the whole rows.
BitGradients norm_backward(const Tensor& dy_NI, const Tensor& x_NI, const Tensor& gain_I,
                           const Tensor& rstd_N, const Tensor& dots_N, int64_t width, double beta);

}  // namespace strata::ops::bit_linear_cpu
