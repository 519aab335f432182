#include "core/ops/gated_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/gated_norm_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace gated_norm_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNormGated : torch::autograd::Function<RmsNormGated> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& z,
                        const Tensor& weight, double eps) {
    Tensor rstd;
    Tensor y = gated_norm_cpu::forward(x, z, weight, eps, rstd);
    ctx->save_for_backward({x, z, weight, rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto g = gated_norm_cpu::backward(grads[0], saved[0], saved[1], saved[2], saved[3],
                                            ctx->needs_input_grad(2));
    return {g.x, g.z, g.weight, Tensor()};
  }
};

void check_shapes(const Tensor& x, const Tensor& z, const Tensor& weight_V) {
  STRATA_CHECK(
      x.dim() >= 1 && x.sizes() == z.sizes() && x.scalar_type() == z.scalar_type() &&
          (!weight_V.defined() || (weight_V.dim() == 1 && weight_V.size(0) == x.size(-1))),
      cat("rms_norm_gated: x ", shape_text(x.sizes()), ", z ", shape_text(z.sizes()), ", weight ",
          weight_V.defined() ? shape_text(weight_V.sizes()) : std::string("none"), " do not fit"));
}

}  // namespace gated_norm_detail

Tensor rms_norm_gated_composite(const Tensor& x, const Tensor& z, const Tensor& weight_V,
                                double eps) {
  gated_norm_detail::check_shapes(x, z, weight_V);
  const auto acc = accumulate_dtype(x.scalar_type());
  const Tensor wide = x.to(acc);
  Tensor normed = wide * (wide.square().mean(-1, true) + eps).rsqrt();
  if (weight_V.defined()) {
    normed = normed * weight_V.to(acc);
  }
  return (normed * at::silu(z.to(acc))).to(x.scalar_type());
}

Tensor rms_norm_gated(const Tensor& x, const Tensor& z, const Tensor& weight_V, double eps) {
  if (!has_cpu_kernel(x)) {
    return rms_norm_gated_composite(x, z, weight_V, eps);
  }
  gated_norm_detail::check_shapes(x, z, weight_V);
  const auto acc = accumulate_dtype(x.scalar_type());
  const Tensor weight = weight_V.defined() ? weight_V.to(acc).contiguous()
                                           : at::ones({x.size(-1)}, x.options().dtype(acc));
  return gated_norm_detail::RmsNormGated::apply(x, z, weight, eps);
}

}  // namespace strata::ops
