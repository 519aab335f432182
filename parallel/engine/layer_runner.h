#pragma once
// Runs one layer's forward and backward for several micro-batches in flight. Autograd never crosses
// a layer: the input is detached, the graph of a micro-batch is kept until its backward and then
// dropped, the caller carries activations and gradients from layer to layer. With Recompute::Full
// only the input is kept and the forward runs again in the backward, bit-identical because
// everything random is a function of the batch.
#include <map>
#include <memory>

#include "core/batch.h"
#include "parallel/nn/module.h"

namespace strata {

class LayerRunner {
 public:
  LayerRunner(std::shared_ptr<Layer> layer, Recompute recompute);

  Layer& layer() noexcept { return *layer_; }
  // x undefined for the first layer. Returns a detached output (same storage).
  Tensor forward(int64_t microbatch, const Tensor& x, const Batch& batch);
  Tensor forward_only(const Tensor& x, const Batch& batch);
  // Gradient of the input (undefined for the first layer). Gradients of parameters are left in
  // their .grad().
  Tensor backward(int64_t microbatch, const Tensor& dy);

 private:
  struct Saved {
    Tensor x, y;  // y undefined with recompute
    Batch batch;
  };
  std::shared_ptr<Layer> layer_;
  Recompute recompute_;
  std::map<int64_t, Saved> saved_;
};

}  // namespace strata
