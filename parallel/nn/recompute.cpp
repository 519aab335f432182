#include "parallel/nn/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

namespace strata {
namespace recompute_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Work : torch::CustomClassHolder {
  explicit Work(std::function<Tensor(const Tensor&)> function) : f(std::move(function)) {}
  std::function<Tensor(const Tensor&)> f;
};

// `anchor` is an empty tensor that requires a gradient: parameters used by f may, where x does not.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor&,
                        const c10::intrusive_ptr<Work>& work) {
    ctx->save_for_backward({x});
    ctx->saved_data["work"] = c10::IValue::make_capsule(work);
    return work->f(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = ctx->saved_data["work"].toCapsule();
    const Tensor x =
        ctx->get_saved_variables()[0].detach().requires_grad_(ctx->needs_input_grad(0));
    const at::AutoGradMode grad(true);
    const Tensor y = static_cast<const Work&>(*capsule).f(x);
    if (y.requires_grad()) y.backward(grads[0]);
    return {x.grad(), Tensor(), Tensor()};
  }
};

}  // namespace recompute_detail

Tensor recomputed(const Tensor& x, std::function<Tensor(const Tensor&)> f) {
  if (!at::GradMode::is_enabled()) return f(x);
  const Tensor anchor = at::empty({0}, x.options()).requires_grad_();
  return recompute_detail::Recomputed::apply(
      x, anchor, c10::make_intrusive<recompute_detail::Work>(std::move(f)));
}

}  // namespace strata
