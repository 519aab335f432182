#include "core/ops/activation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "core/ops/activation_cpu.h"
#include "core/ops/cpu_rows.h"
#include "core/text.h"

namespace strata::ops {

namespace activation_detail {

using activation_cpu::Kind;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up) {
    ctx->save_for_backward({gate, up});
    return activation_cpu::swiglu_forward(gate, up);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    Tensor dgate, dup;
    activation_cpu::swiglu_backward(grads[0], saved[0], saved[1], dgate, dup);
    return {dgate, dup};
  }
};

struct Activation : torch::autograd::Function<Activation> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t kind) {
    ctx->save_for_backward({x});
    ctx->saved_data["kind"] = kind;
    return activation_cpu::forward(x, static_cast<Kind>(kind));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto kind = static_cast<Kind>(ctx->saved_data["kind"].toInt());
    return {activation_cpu::backward(grads[0], ctx->get_saved_variables()[0], kind), Tensor()};
  }
};

}  // namespace activation_detail

Tensor swiglu_composite(const Tensor& gate, const Tensor& up) {
  const auto acc = accumulate_dtype(gate.scalar_type());
  return (at::silu(gate.to(acc)) * up.to(acc)).to(gate.scalar_type());
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  if (has_cpu_kernel(gate) && gate.sizes() == up.sizes() &&
      gate.scalar_type() == up.scalar_type()) {
    return activation_detail::Swiglu::apply(gate, up);
  }
  return swiglu_composite(gate, up);
}

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = {"gelu", "gelu_new", "gelu_pytorch_tanh",
                                                 "relu", "silu",     "swish"};
  return names;
}

Tensor activation(const Tensor& x, const std::string& name) {
  using activation_detail::Kind;
  const bool tanh = name == "gelu_new" || name == "gelu_pytorch_tanh";
  Kind kind = Kind::Silu;
  if (name == "gelu") {
    kind = Kind::Gelu;
  } else if (tanh) {
    kind = Kind::GeluTanh;
  } else if (name == "relu") {
    kind = Kind::Relu;
  } else if (name != "silu" && name != "swish") {
    throw ConfigError("activation", cat('"', name, '"'), join(activation_names()),
                      did_you_mean(name, activation_names()));
  }
  if (has_cpu_kernel(x)) {
    return activation_detail::Activation::apply(x, static_cast<int64_t>(kind));
  }
  switch (kind) {
    case Kind::Gelu:
    case Kind::GeluTanh:
      return at::gelu(x, tanh ? "tanh" : "none");
    case Kind::Relu:
      return at::relu(x);
    case Kind::Silu:
      break;
  }
  return at::silu(x);
}

}  // namespace strata::ops
