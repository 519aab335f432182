#pragma once
// Linear layer with ternary weights and quantised activations (MatMul-free models). Per row x:
//
//   rstd = 1 / sqrt(mean(x^2) + eps)       M = max_j |x_j gain_j|       Q = 2^(bits-1) - 1
//   q_j  = round(x_j gain_j Q / M)         scale = rstd M / Q           (rstd M >= 1e-5)
//   q_j  = round(x_j gain_j rstd Q / 1e-5) scale = 1e-5 / Q             (smaller rows)
//   y_o  = beta scale sum_j q_j t_oj
//
// with the codes t in {-1, 0, 1} of the weight: t = round_half_even(W / beta) clamped, beta = mean
// |W|. The codes q do not depend on rstd, so they are the same bits however rows are cut into
// parts, and the sum is one of integers: exact in int32 and (below 2^24 / Q features) in fp32. It
// is taken in int32 where the device's library multiplies int8, in training as in evaluation.
//
// Backward is straight through: rounding, scale and beta are constants.
//   dy' = t^T g beta      dW = g (q scale)      dgain = sum dy' x rstd      dx = RMSNorm's backward
//
// Statistics in fp32 (fp64 for fp64 inputs). Called by parallel/nn/bit_linear.h.
#include <cstdint>
#include <string>

#include "core/ops/feature_group.h"

namespace strata::ops {

enum class ActRound { HalfEven, HalfAway, None };
ActRound parse_act_round(const std::string& name);  // half_even, half_away, none

struct BitOptions {
  double eps = 1e-6;
  int bits = 8;  // 2 to 8
  ActRound round = ActRound::HalfEven;
};

// Sum of |W| in fp64, whatever W's type.
double absolute_sum(const Tensor& weight);

// What multiplies the activations. Undefined codes: the weight itself, with scale 1.
struct TernaryCodes {
  Tensor codes_OI;   // int8: -1, 0, 1
  double scale = 1;  // beta
  bool ternary() const { return codes_OI.defined(); }
};
// beta: mean of |W| over the whole matrix, of which `weight` may be a part; at least 1e-5 is used.
TernaryCodes ternary_codes(const Tensor& weight_OI, double beta);

// A weight with these codes and this scale: ternary_codes of it gives them back (the scale to
// rounding of fp64). fp64; training can go on from it.
Tensor ternary_weight(const TernaryCodes& codes);

// Two bits a code, four codes a byte, first code in the low bits: code + 1; rows padded with zeros.
// [O, I] int8 -> [O, ceil(I / 4)] uint8 and back.
Tensor pack_codes(const Tensor& codes_OI);
Tensor unpack_codes(const Tensor& packed, int64_t features);

// x [.., I], gain [I], weight [O, I] -> [.., O]. The weight's values are read only without codes.
Tensor bit_linear(const Tensor& x, const Tensor& gain_I, const Tensor& weight_OI,
                  const TernaryCodes& codes, const BitOptions& options = {},
                  const FeatureGroup& features = {});
Tensor bit_linear_composite(const Tensor& x, const Tensor& gain_I, const Tensor& weight_OI,
                            const TernaryCodes& codes, const BitOptions& options = {});

// The pieces, for a loss head that works chunk by chunk. No autograd.
struct BitRows {
  Tensor q_NI;     // int8, or integers in the dtype of x (any values without rounding)
  Tensor scale_N;  // accumulate dtype
  Tensor rstd_N;
};
BitRows bit_rows(const Tensor& x_NI, const Tensor& gain_I, const BitOptions& options,
                 const FeatureGroup& features = {}, bool int8 = false);
// Whether rows rounded so multiply a matrix of codes as integers (int8 x int8 -> int32 of the
// library): exact, and several times faster than in x's dtype. In fp32 and fp64 the bits are the
// same either way; bfloat16 rounds once less.
bool multiplies_integers(const Tensor& x, const TernaryCodes& codes, const BitOptions& options);
// matrix: int8 codes for rounded rows, else codes or weight in the dtype of x.
// -> [N, O] in `dtype`, that of x.
Tensor bit_product(const BitRows& rows, const Tensor& matrix_OI, double beta, at::ScalarType dtype);
struct BitGradients {
  Tensor x, gain;  // dtype of x; accumulate dtype
};
BitGradients bit_backward(const Tensor& dy_NO, const Tensor& x_NI, const Tensor& gain_I,
                          const BitRows& rows, const Tensor& matrix_OI, double beta,
                          const FeatureGroup& features = {});
// g (q scale) [O, I], the gradient of the weight; `out` undefined: returned, else added to it.
Tensor bit_weight_gradient(const Tensor& dy_NO, const BitRows& rows);

// Root mean square norm over a row of which x holds a part: x / sqrt(mean(x^2) + eps) weight, with
// the part of the weight that belongs to it. ops::rms_norm where the row is whole.
Tensor rms_norm_split(const Tensor& x, const Tensor& weight_D, double eps,
                      const FeatureGroup& features);

}  // namespace strata::ops
