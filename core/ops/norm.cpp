#include "core/ops/norm.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/norm_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace norm_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_widths(const char* op, const Tensor& x, const Tensor& weight_D, const Tensor& bias_D) {
  STRATA_CHECK(x.dim() >= 1 && weight_D.dim() == 1 && weight_D.size(0) == x.size(-1) &&
                   (!bias_D.defined() || bias_D.sizes() == weight_D.sizes()),
               cat(op, ": weight ", shape_text(weight_D.sizes()), " does not fit x ",
                   shape_text(x.sizes())));
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, double eps) {
    norm_cpu::Statistics statistics;
    Tensor y = norm_cpu::rms_norm_forward(x, weight, eps, statistics);
    ctx->save_for_backward({x, weight, statistics.rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto g = norm_cpu::rms_norm_backward(
        grads[0], saved[0], saved[1], {Tensor(), saved[2]},
        {.x = ctx->needs_input_grad(0), .weight = ctx->needs_input_grad(1), .bias = false});
    return {g.x, g.weight, Tensor()};
  }
};

struct LayerNorm : torch::autograd::Function<LayerNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, double eps) {
    norm_cpu::Statistics statistics;
    Tensor y = norm_cpu::layer_norm_forward(x, weight, bias.value_or(Tensor()), eps, statistics);
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->save_for_backward({x, weight, statistics.mean, statistics.rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto g = norm_cpu::layer_norm_backward(
        grads[0], saved[0], saved[1], {saved[2], saved[3]},
        {.x = ctx->needs_input_grad(0),
         .weight = ctx->needs_input_grad(1),
         .bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)});
    return {g.x, g.weight, g.bias, Tensor()};
  }
};

}  // namespace norm_detail

Tensor rms_norm_composite(const Tensor& x, const Tensor& weight_D, double eps) {
  const auto acc = accumulate_dtype(x.scalar_type());
  const Tensor wide = x.to(acc);
  const Tensor rstd = (wide.square().mean(-1, true) + eps).rsqrt();
  return (wide * rstd * weight_D.to(acc)).to(x.scalar_type());
}

Tensor rms_norm(const Tensor& x, const Tensor& weight_D, double eps) {
  norm_detail::check_widths("rms_norm", x, weight_D, Tensor());
  if (!has_cpu_kernel(x)) {
    return rms_norm_composite(x, weight_D, eps);
  }
  return norm_detail::RmsNorm::apply(x, weight_D.to(accumulate_dtype(x.scalar_type())).contiguous(),
                                     eps);
}

Tensor layer_norm_composite(const Tensor& x, const Tensor& weight_D, const Tensor& bias_D,
                            double eps) {
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
  norm_detail::check_widths("layer_norm", x, weight_D, bias_D);
  if (!has_cpu_kernel(x)) {
    return layer_norm_composite(x, weight_D, bias_D, eps);
  }
  const auto acc = accumulate_dtype(x.scalar_type());
  std::optional<Tensor> bias;
  if (bias_D.defined()) {
    bias = bias_D.to(acc).contiguous();
  }
  return norm_detail::LayerNorm::apply(x, weight_D.to(acc).contiguous(), bias, eps);
}

}  // namespace strata::ops
