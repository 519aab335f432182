#include "core/ops/linear.h"

#include <ATen/ops/linear.h>

#include <optional>

#include "core/error.h"
#include "core/text.h"

namespace strata::ops {

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const auto dtype = x.scalar_type();
  const Tensor w = weight.to(dtype);
  if (!bias.defined()) {
    return at::linear(x, w);
  }
  return at::linear(x, w, bias.to(dtype));
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
