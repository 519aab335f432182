#include "core/ops/l2_norm.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/ops/cpu_rows.h"
#include "core/ops/l2_norm_cpu.h"

namespace strata::ops {

namespace l2_norm_detail {

struct L2Norm : torch::autograd::Function<L2Norm> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, double scale) {
    ctx->save_for_backward({x});
    ctx->saved_data["scale"] = scale;
    return l2_norm_cpu::forward(x, scale);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    return {l2_norm_cpu::backward(grads[0], ctx->get_saved_variables()[0],
                                  ctx->saved_data["scale"].toDouble()),
            Tensor()};
  }
};

}  // namespace l2_norm_detail

Tensor l2_normalise_composite(const Tensor& x, double scale) {
  const Tensor wide = x.to(accumulate_dtype(x.scalar_type()));
  const Tensor length = (wide.square().sum(-1, true) + l2_norm_cpu::kEps).rsqrt();
  return (wide * (length * scale)).to(x.scalar_type());
}

Tensor l2_normalise(const Tensor& x, double scale) {
  if (!has_cpu_kernel(x)) return l2_normalise_composite(x, scale);
  return l2_norm_detail::L2Norm::apply(x, scale);
}

}  // namespace strata::ops
