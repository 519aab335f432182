#include "core/ops/activation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "core/error.h"
#include "core/text.h"

namespace strata::ops {

Tensor swiglu_composite(const Tensor& gate, const Tensor& up) {
  const auto acc = accumulate_dtype(gate.scalar_type());
  return (at::silu(gate.to(acc)) * up.to(acc)).to(gate.scalar_type());
}

Tensor swiglu(const Tensor& gate, const Tensor& up) { return swiglu_composite(gate, up); }

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = {"gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"};
  return names;
}

Tensor activation(const Tensor& x, const std::string& name) {
  if (name == "gelu") {
    return at::gelu(x, "none");
  }
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") {
    return at::gelu(x, "tanh");
  }
  if (name == "silu" || name == "swish") {
    return at::silu(x);
  }
  if (name == "relu") {
    return at::relu(x);
  }
  throw ConfigError("activation", cat('"', name, '"'), join(activation_names()), did_you_mean(name, activation_names()));
}

}  // namespace strata::ops
