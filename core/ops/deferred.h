#pragma once
// Weight gradients that can wait. A pipeline schedule that splits the backward (zb-h1) first needs
// gradients of inputs, for the stage before; those of weights fill the time in which it would wait.
//
//   DeferredGradients later;
//   { DeferWeightGradients scope(later); y.backward(dy); }   // x.grad() is there
//   later.run();                                             // weights' .grad() as well
//
// Every parameter gets the sum it would get at once, in the same order, to the last bit. Takes
// effect for ops whose backward knows how to wait (ops::linear), on the thread that made the scope:
// elsewhere gradients are simply complete earlier.
#include <functional>
#include <vector>

#include "core/tensor_fwd.h"

namespace strata::ops {

class DeferredGradients {
 public:
  void add(std::function<void()> work) { works_.push_back(std::move(work)); }
  void run();  // in the order of add(); empty afterwards
  bool empty() const noexcept { return works_.empty(); }

 private:
  std::vector<std::function<void()>> works_;
};

class DeferWeightGradients {
 public:
  explicit DeferWeightGradients(DeferredGradients& queue);
  ~DeferWeightGradients();
  DeferWeightGradients(const DeferWeightGradients&) = delete;
  DeferWeightGradients& operator=(const DeferWeightGradients&) = delete;

 private:
  DeferredGradients* outer_;
};

// For backwards of ops: where their weight gradients should wait on this thread, or null.
DeferredGradients* deferred_gradients();

// Adds to a leaf's .grad() as autograd would.
void accumulate_gradient(const Tensor& leaf, const Tensor& gradient);

}  // namespace strata::ops
