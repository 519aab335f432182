#include "core/ops/dropout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/dropout_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace dropout_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Elements [B, T, F] of the mask on the CPU, fp32: factors 0 or 1 / (1 - prob).
Tensor mask(const Tensor& x_BTF, double prob, const DropoutKey& key) {
  const int64_t B = x_BTF.size(0), T = x_BTF.size(1), F = x_BTF.size(2);
  const int64_t width = key.width == 0 ? F : key.width;
  const int64_t length = key.length == 0 ? T : key.length;
  const Rng rng(key.seed, "dropout", key.name);
  Tensor factors = at::empty({B, T, F}, at::TensorOptions().dtype(at::kDouble));
  auto* out = factors.mutable_data_ptr<double>();
  for (int64_t row = 0; row < B * T; ++row) {
    const int64_t token = (key.first_row + row / T) * length + key.first_token + row % T;
    const int64_t first = token * width + key.first_feature;
    dropout_cpu::keep_factors(rng, static_cast<uint64_t>(first), F, key.step, prob, out + row * F);
  }
  return factors.to(accumulate_dtype(x_BTF.scalar_type())).to(x_BTF.device());
}

// The backward is the forward applied to the gradient: the mask is computed again, nothing is kept.
struct Dropout : torch::autograd::Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double prob, const DropoutKey& key) {
    ctx->saved_data["prob"] = prob;
    ctx->saved_data["name"] = key.name;
    ctx->saved_data["numbers"] = std::vector<int64_t>{static_cast<int64_t>(key.seed),
                                                      static_cast<int64_t>(key.step),
                                                      key.first_row,
                                                      key.first_token,
                                                      key.length,
                                                      key.first_feature,
                                                      key.width};
    return dropout_cpu::apply(x, prob, key);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto n = ctx->saved_data["numbers"].toIntVector();
    const DropoutKey key{.seed = static_cast<uint64_t>(n[0]),
                         .name = ctx->saved_data["name"].toStringRef(),
                         .step = static_cast<uint32_t>(n[1]),
                         .first_row = n[2],
                         .first_token = n[3],
                         .length = n[4],
                         .first_feature = n[5],
                         .width = n[6]};
    return {dropout_cpu::apply(grads[0], ctx->saved_data["prob"].toDouble(), key), Tensor(),
            Tensor()};
  }
};

}  // namespace dropout_detail

Tensor dropout(const Tensor& x_BTF, double prob, const DropoutKey& key) {
  STRATA_CHECK(prob >= 0 && prob < 1, cat("dropout: probability ", prob));
  if (prob == 0) {
    return x_BTF;
  }
  STRATA_CHECK(x_BTF.dim() == 3,
               cat("dropout: got ", shape_text(x_BTF.sizes()), ", needs [B, T, F]"));
  STRATA_CHECK(key.width == 0 || key.first_feature + x_BTF.size(2) <= key.width,
               cat("dropout: features ", key.first_feature, " to ",
                   key.first_feature + x_BTF.size(2), " lie outside the width ", key.width));
  STRATA_CHECK(key.length == 0 || key.first_token + x_BTF.size(1) <= key.length,
               cat("dropout: tokens ", key.first_token, " to ", key.first_token + x_BTF.size(1),
                   " lie outside the length ", key.length));
  if (has_cpu_kernel(x_BTF)) {
    return dropout_detail::Dropout::apply(x_BTF, prob, key);
  }
  if (x_BTF.is_meta()) {  // shapes only: there are no values to keep or drop
    return x_BTF * 1.0;
  }
  const Tensor factors = dropout_detail::mask(x_BTF, prob, key);
  return (x_BTF.to(factors.scalar_type()) * factors).to(x_BTF.scalar_type());
}

}  // namespace strata::ops
