#pragma once
// Runs one layer's forward and backward for several micro-batches in flight. Autograd never crosses
// a layer: the input is detached, the graph of a micro-batch is kept until its backward and then
// dropped, the caller carries activations and gradients from layer to layer. With Recompute::Full
// only the input is kept and the forward runs again in the backward, bit-identical because
// everything random is a function of the batch. A backward may be split: input_backward() leaves
// what ops can put off (core/ops/deferred.h) to weight_backward(), and both together do what
// backward() does, to the last bit.
#include <map>
#include <memory>
#include <vector>

#include "core/batch.h"
#include "core/ops/deferred.h"
#include "parallel/nn/module.h"

namespace strata {

class LayerRunner {
 public:
  // parameters: the layer's, once it was collected.
  LayerRunner(std::shared_ptr<Layer> layer, Recompute recompute,
              std::vector<Parameter*> parameters);

  Layer& layer() noexcept { return *layer_; }
  // x undefined for the first layer. Returns a detached output (same storage).
  Tensor forward(int64_t microbatch, const Tensor& x, const Batch& batch);
  Tensor forward_only(const Tensor& x, const Batch& batch);
  // Gradient of the input (undefined for the first layer). Gradients of parameters are left in
  // their .grad().
  Tensor backward(int64_t microbatch, const Tensor& dy);
  // The same in two parts. No gradient is in .grad() between them.
  Tensor input_backward(int64_t microbatch, const Tensor& dy);
  void weight_backward(int64_t microbatch);

 private:
  struct Saved {
    Tensor x, y;  // y undefined with recompute
    Batch batch;
  };
  struct Split {
    ops::DeferredGradients later;
    std::vector<Tensor> gradients;  // by parameter: what the first part left
  };
  std::shared_ptr<Layer> layer_;
  Recompute recompute_;
  std::vector<Parameter*> parameters_;
  std::map<int64_t, Saved> saved_;
  std::map<int64_t, Split> split_;
};

}  // namespace strata
