#include "models/parts/feature_map.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include <map>

#include "core/error.h"
#include "core/text.h"

namespace strata {

namespace feature_map_detail {

using Function = Tensor (*)(const Tensor&);

const std::map<std::string, Function>& functions() {
  static const std::map<std::string, Function> functions = {
      {"elu", [](const Tensor& x) { return at::elu(x); }},
      // e^x below zero, without the cancellation of elu(x) + 1
      {"elu_p1", [](const Tensor& x) { return at::relu(x) + at::exp(x.clamp_max(0)); }},
      {"gelu", [](const Tensor& x) { return at::gelu(x, "tanh"); }},
      {"logsigmoid", [](const Tensor& x) { return at::log_sigmoid(x); }},
      {"relu", [](const Tensor& x) { return at::relu(x); }},
      {"sigmoid", [](const Tensor& x) { return at::sigmoid(x); }},
      {"silu", [](const Tensor& x) { return at::silu(x); }},
      {"sqrelu", [](const Tensor& x) { return at::relu(x).square(); }},
      {"swish", [](const Tensor& x) { return at::silu(x); }}};
  return functions;
}

}  // namespace feature_map_detail

const std::vector<std::string>& feature_map_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out{"none"};
    for (const auto& [name, function] : feature_map_detail::functions()) out.push_back(name);
    return out;
  }();
  return names;
}

Tensor feature_map(const Tensor& x, const std::string& name) {
  if (name == "none") return x;
  const auto found = feature_map_detail::functions().find(name);
  if (found == feature_map_detail::functions().end()) {
    throw ConfigError("feature_map", cat('"', name, '"'), join(feature_map_names()),
                      did_you_mean(name, feature_map_names()));
  }
  return found->second(x.to(accumulate_dtype(x.scalar_type()))).to(x.scalar_type());
}

}  // namespace strata
