#include "core/ops/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "core/ops/deferred.h"
#include "core/text.h"

namespace strata::ops {

namespace linear_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// [.., F] -> [N, F], a view where possible.
Tensor as_rows(const Tensor& x) {
  return x.dim() == 2
             ? x
             : x.reshape({c10::multiply_integers(x.sizes().slice(0, x.dim() - 1)), x.size(-1)});
}

// Keeps the weight itself, neither a view nor a cast copy of it: the backward reads what the
// parameter holds then, and the values it held in the forward may be gone.
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    const auto dtype = x.scalar_type();
    const Tensor rows = as_rows(x), w = weight.to(dtype).t();
    if (bias) ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias->scalar_type());
    ctx->save_for_backward({x, weight});
    Shape shape = x.sizes().vec();
    shape.back() = weight.size(0);
    const Tensor y = bias ? at::addmm(bias->to(dtype), rows, w) : at::mm(rows, w);
    return at::_unsafe_view(y, shape);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const Tensor dy = as_rows(grads[0]);
    Tensor dx, dweight, dbias;
    if (ctx->needs_input_grad(0)) dx = at::mm(dy, weight.to(x.scalar_type())).view(x.sizes());
    if (ctx->needs_input_grad(1)) {
      DeferredGradients* later = weight.is_leaf() ? deferred_gradients() : nullptr;
      if (later == nullptr) {
        dweight = at::mm(dy.t(), as_rows(x));
      } else {
        later->add([x = x.detach(), dy = dy.detach(), weight] {
          accumulate_gradient(weight, at::mm(dy.t(), as_rows(x)));
        });
      }
    }
    const auto bias_dtype = ctx->saved_data.find("bias_dtype");
    if (bias_dtype != ctx->saved_data.end() && ctx->needs_input_grad(2)) {
      dbias =
          dy.sum({0}, /*keepdim=*/false, static_cast<at::ScalarType>(bias_dtype->second.toInt()));
    }
    return {dx, dweight, dbias};
  }
};

}  // namespace linear_detail

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  STRATA_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) &&
                   (!bias.defined() || bias.sizes() == weight.sizes().slice(0, 1)),
               cat("linear: weight ", shape_text(weight.sizes()), " does not fit x ",
                   shape_text(x.sizes())));
  return linear_detail::Linear::apply(x, weight,
                                      bias.defined() ? std::optional<Tensor>(bias) : std::nullopt);
}

Tensor split_heads(const Tensor& x, int64_t head_width) {
  const int64_t width = x.size(-1);
  STRATA_CHECK(
      head_width > 0 && width % head_width == 0,
      cat("split_heads: width ", width, " is not a multiple of the head width ", head_width));
  Shape shape = x.sizes().vec();
  shape.back() = width / head_width;
  shape.push_back(head_width);
  return x.reshape(shape);
}

Tensor merge_heads(const Tensor& x) {
  STRATA_CHECK(x.dim() >= 2, cat("merge_heads: got ", shape_text(x.sizes())));
  Shape shape = x.sizes().vec();
  const int64_t head_width = shape.back();
  shape.pop_back();
  shape.back() *= head_width;
  return x.reshape(shape);
}

}  // namespace strata::ops
