#include "core/ops/norm.h"

#include <ATen/TensorOperators.h>

namespace strata::ops {

Tensor rms_norm_composite(const Tensor& x, const Tensor& weight_D, double eps) {
  const auto acc = accumulate_dtype(x.scalar_type());
  const Tensor wide = x.to(acc);
  const Tensor rstd = (wide.square().mean(-1, true) + eps).rsqrt();
  return (wide * rstd * weight_D.to(acc)).to(x.scalar_type());
}

Tensor rms_norm(const Tensor& x, const Tensor& weight_D, double eps) { return rms_norm_composite(x, weight_D, eps); }

Tensor layer_norm_composite(const Tensor& x, const Tensor& weight_D, const Tensor& bias_D, double eps) {
  const auto acc = accumulate_dtype(x.scalar_type());
  const Tensor wide = x.to(acc);
  const Tensor centred = wide - wide.mean(-1, true);
  const Tensor rstd = (centred.square().mean(-1, true) + eps).rsqrt();
  Tensor y = centred * rstd * weight_D.to(acc);
  if (bias_D.defined()) {
    y = y + bias_D.to(acc);
  }
  return y.to(x.scalar_type());
}

Tensor layer_norm(const Tensor& x, const Tensor& weight_D, const Tensor& bias_D, double eps) {
  return layer_norm_composite(x, weight_D, bias_D, eps);
}

}  // namespace strata::ops
