#include "core/ops/embedding.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace strata::ops {
namespace embedding_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Adds dy[n] into row tokens[n] of `sum`; each thread takes a stripe of columns and all tokens in
// order.
void scatter_add(const Tensor& sum, const Tensor& tokens, const Tensor& dy, int64_t first_row) {
  const int64_t count = tokens.numel(), rows = sum.size(0), width = sum.size(1);
  const int64_t* ids = tokens.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, dy.scalar_type(), "embedding_backward", [&] {
        using wide_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        const scalar_t* from = dy.const_data_ptr<scalar_t>();
        wide_t* into = sum.mutable_data_ptr<wide_t>();
        at::parallel_for(0, width, std::max<int64_t>(64, 32768 / std::max<int64_t>(1, count)),
                         [&](int64_t begin, int64_t end) {
                           for (int64_t n = 0; n < count; ++n) {
                             const int64_t row = ids[n] - first_row;
                             if (row < 0 || row >= rows) continue;
                             for (int64_t d = begin; d < end; ++d)
                               into[row * width + d] += static_cast<wide_t>(from[n * width + d]);
                           }
                         });
      });
}

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* ctx, const Tensor& weight, const Tensor& tokens,
                        int64_t first_row) {
    ctx->save_for_backward({tokens});
    ctx->saved_data["first_row"] = first_row;
    ctx->saved_data["rows"] = weight.size(0);
    Shape shape = tokens.sizes().vec();
    shape.push_back(weight.size(1));
    if (weight.size(0) == 0) return at::zeros(shape, weight.options().requires_grad(false));
    const Tensor local = tokens - first_row;
    const Tensor mine = at::logical_and(local.ge(0), local.lt(weight.size(0)));
    return at::embedding(weight, at::where(mine, local, 0)).mul_(mine.unsqueeze(-1));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Tensor tokens = ctx->get_saved_variables()[0].contiguous();
    const int64_t first_row = ctx->saved_data["first_row"].toInt(),
                  rows = ctx->saved_data["rows"].toInt();
    const Tensor dy = grads[0].contiguous();
    Tensor sum =
        at::zeros({rows, dy.size(-1)}, dy.options().dtype(accumulate_dtype(dy.scalar_type())));
    if (dy.is_cpu()) {
      scatter_add(sum, tokens, dy, first_row);
    } else if (rows > 0) {
      const Tensor local = tokens.reshape({-1}) - first_row;
      const Tensor mine = at::logical_and(local.ge(0), local.lt(rows));
      sum.index_add_(0, at::where(mine, local, 0),
                     dy.reshape({-1, dy.size(-1)}).to(sum.scalar_type()) * mine.unsqueeze(-1));
    }
    return {sum.to(dy.scalar_type()), Tensor(), Tensor()};
  }
};

}  // namespace embedding_detail

Tensor embedding(const Tensor& weight, const Tensor& tokens, int64_t first_row) {
  return embedding_detail::Embedding::apply(weight, tokens, first_row);
}

}  // namespace strata::ops
