#include "core/ops/deferred.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

namespace strata::ops {
namespace deferred_detail {

thread_local DeferredGradients* current = nullptr;

}  // namespace deferred_detail

void DeferredGradients::run() {
  const at::NoGradGuard no_grad;
  for (const auto& work : works_) work();
  works_.clear();
}

DeferWeightGradients::DeferWeightGradients(DeferredGradients& queue)
    : outer_(deferred_detail::current) {
  deferred_detail::current = &queue;
}

DeferWeightGradients::~DeferWeightGradients() { deferred_detail::current = outer_; }

DeferredGradients* deferred_gradients() { return deferred_detail::current; }

void accumulate_gradient(const Tensor& leaf, const Tensor& gradient) {
  const Tensor g = gradient.to(leaf.scalar_type());
  Tensor& sum = leaf.mutable_grad();
  if (sum.defined()) {
    sum.add_(g);
  } else {
    sum = g;
  }
}

}  // namespace strata::ops
