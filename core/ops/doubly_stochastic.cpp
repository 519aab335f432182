#include "core/ops/doubly_stochastic.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/text.h"

namespace strata::ops {

namespace doubly_stochastic_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor iterate(Tensor log, int64_t iterations, SinkhornOrder order) {
  const int64_t first = order == SinkhornOrder::RowsFirst ? -1 : -2;
  const int64_t second = first == -1 ? -2 : -1;
  for (int64_t k = 0; k < iterations; ++k) {
    log = log - at::logsumexp(log, first, true);
    log = log - at::logsumexp(log, second, true);
  }
  return log.exp();
}

struct Sinkhorn : torch::autograd::Function<Sinkhorn> {
  static Tensor forward(AutogradContext* ctx, const Tensor& logits, int64_t iterations,
                        int64_t order) {
    ctx->save_for_backward({logits});
    ctx->saved_data["iterations"] = iterations;
    ctx->saved_data["order"] = order;
    return iterate(logits, iterations, static_cast<SinkhornOrder>(order));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::AutoGradMode grad(true);
    Tensor logits = ctx->get_saved_variables()[0].detach().requires_grad_();
    iterate(logits, ctx->saved_data["iterations"].toInt(),
            static_cast<SinkhornOrder>(ctx->saved_data["order"].toInt()))
        .backward(grads[0]);
    return {logits.grad(), Tensor(), Tensor()};
  }
};

}  // namespace doubly_stochastic_detail

std::vector<std::vector<int64_t>> permutations(int64_t n) {
  STRATA_CHECK(n >= 1 && n <= 6, cat("permutations of ", n, " elements"));
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::vector<int64_t>> out;
  do {
    out.push_back(order);
  } while (std::next_permutation(order.begin(), order.end()));
  return out;
}

Tensor permutation_mixture(const Tensor& weights, int64_t n) {
  const auto all = permutations(n);
  STRATA_CHECK(weights.size(-1) == static_cast<int64_t>(all.size()),
               cat("permutation_mixture: weights ", shape_text(weights.sizes()), " for n = ", n));
  Tensor basis = at::zeros({static_cast<int64_t>(all.size()), n * n},
                           at::TensorOptions().dtype(weights.scalar_type()));
  for (size_t k = 0; k < all.size(); ++k) {
    for (int64_t i = 0; i < n; ++i) {
      basis[static_cast<int64_t>(k)][i * n + all[k][static_cast<size_t>(i)]] = 1.0;
    }
  }
  Shape shape = weights.sizes().vec();
  shape.back() = n;
  shape.push_back(n);
  return at::matmul(weights, basis.to(weights.device())).reshape(shape);
}

Tensor sinkhorn(const Tensor& logits, int64_t iterations, SinkhornOrder order) {
  return doubly_stochastic_detail::Sinkhorn::apply(logits, iterations, static_cast<int64_t>(order));
}

}  // namespace strata::ops
