#include "core/ops/dropout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"

namespace strata::ops {

namespace dropout_detail {

// Factors 0 or 1 / (1 - prob), [B, T, F] in the accumulate dtype.
Tensor keep_factors(const Tensor& x_BTF, double prob, const DropoutKey& key) {
  const int64_t B = x_BTF.size(0), T = x_BTF.size(1), F = x_BTF.size(2);
  const int64_t width = key.width == 0 ? F : key.width;
  const auto threshold = static_cast<uint64_t>(std::floor(prob * 4294967296.0));
  const double kept = 1.0 / (1.0 - prob);
  const Rng rng(key.seed, "dropout", key.name);
  Tensor out = at::empty({B, T, F}, at::TensorOptions().dtype(at::kDouble));
  double* p = out.data_ptr<double>();
  std::vector<uint32_t> words(static_cast<size_t>(F));
  for (int64_t row = 0; row < B * T; ++row) {
    const int64_t first = (key.first_row * T + row) * width + key.first_feature;
    rng.fill_dropout_words(static_cast<uint64_t>(first), F, key.step, words.data());
    for (int64_t f = 0; f < F; ++f) {
      p[row * F + f] = words[static_cast<size_t>(f)] >= threshold ? kept : 0.0;
    }
  }
  return out.to(x_BTF.device(), accumulate_dtype(x_BTF.scalar_type()));
}

}  // namespace dropout_detail

Tensor dropout(const Tensor& x_BTF, double prob, const DropoutKey& key) {
  STRATA_CHECK(prob >= 0 && prob < 1, cat("dropout: probability ", prob));
  if (prob == 0) {
    return x_BTF;
  }
  STRATA_CHECK(x_BTF.dim() == 3, cat("dropout: got ", shape_text(x_BTF.sizes()), ", needs [B, T, F]"));
  const Tensor factors = dropout_detail::keep_factors(x_BTF, prob, key);
  return (x_BTF.to(factors.scalar_type()) * factors).to(x_BTF.scalar_type());
}

}  // namespace strata::ops
