#include "parallel/engine/layer_runner.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "core/text.h"

namespace strata {

LayerRunner::LayerRunner(std::shared_ptr<Layer> layer, Recompute recompute,
                         std::vector<Parameter*> parameters)
    : layer_(std::move(layer)), recompute_(recompute), parameters_(std::move(parameters)) {}

Tensor LayerRunner::forward(int64_t microbatch, const Tensor& x, const Batch& batch) {
  STRATA_CHECK(saved_.count(microbatch) == 0,
               cat("micro-batch ", microbatch, " is already in flight"));
  Saved saved{x.defined() ? x.detach().requires_grad_() : Tensor(), Tensor(), batch};
  Tensor y;
  if (recompute_ == Recompute::Full) {
    at::NoGradGuard no_grad;
    y = layer_->forward(saved.x, batch);
  } else {
    at::AutoGradMode grad(true);
    saved.y = layer_->forward(saved.x, batch);
    y = saved.y.detach();
  }
  saved_.emplace(microbatch, std::move(saved));
  return y;
}

Tensor LayerRunner::forward_only(const Tensor& x, const Batch& batch) {
  at::NoGradGuard no_grad;
  return layer_->forward(x, batch);
}

Tensor LayerRunner::backward(int64_t microbatch, const Tensor& dy) {
  auto it = saved_.find(microbatch);
  STRATA_CHECK(it != saved_.end(), cat("micro-batch ", microbatch, " has no forward"));
  Saved saved = std::move(it->second);
  saved_.erase(it);
  at::AutoGradMode grad(true);
  if (!saved.y.defined()) saved.y = layer_->forward(saved.x, saved.batch);
  // An embedding that is not trained has nothing to differentiate.
  if (saved.y.requires_grad()) saved.y.backward(dy);
  return saved.x.defined() ? saved.x.grad() : Tensor();
}

Tensor LayerRunner::input_backward(int64_t microbatch, const Tensor& dy) {
  Split& split = split_[microbatch];
  Tensor dx;
  {
    const ops::DeferWeightGradients scope(split.later);
    dx = backward(microbatch, dy);
  }
  for (Parameter* p : parameters_) {
    Tensor& g = p->value.mutable_grad();
    split.gradients.push_back(g);
    g.reset();
  }
  return dx;
}

void LayerRunner::weight_backward(int64_t microbatch) {
  const auto it = split_.find(microbatch);
  STRATA_CHECK(it != split_.end(), cat("micro-batch ", microbatch, " has no input backward"));
  for (size_t i = 0; i < parameters_.size(); ++i)
    parameters_[i]->value.mutable_grad() = it->second.gradients[i];
  it->second.later.run();
  split_.erase(it);
}

}  // namespace strata
