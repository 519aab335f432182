#pragma once
// Gradients of a model in flat buffers, one per (layer, tp ranks to sum over), and their reduction:
// over tp where the gradient rule says so, then over dp. A layer's reduction starts when its last
// micro-batch's backward is done and runs beside the backward of the layers before it.
#include <memory>
#include <vector>

#include "parallel/engine/flat_layout.h"
#include "parallel/nn/module.h"

namespace strata {

class GradReducer {
 public:
  GradReducer() = default;
  GradReducer(const GradReducer&) = delete;
  GradReducer& operator=(const GradReducer&) = delete;

  // Collective over the layer's groups: allocates buffers and points parameter->grad into them.
  // Layers are added in order.
  void add_layer(const ParallelLayout& layout, const std::vector<Parameter*>& parameters);

  void zero();
  // Adds parameter->value.grad() of the layer's parameters into their buffers and drops it. `tied`
  // parameters of other layers that accumulate here are passed too.
  static void accumulate(const std::vector<Parameter*>& parameters);
  void start(int layer);  // Collective, in the same order on all ranks
  void finish();          // Collective: all buffers are complete afterwards

  // What of a parameter this rank counts in the global norm (its dp part; uncut ones only on the
  // first tp rank).
  Range norm_range(const Parameter& parameter) const;
  int64_t bytes() const;
  double waited_s() const noexcept { return waited_s_; }  // in the last start()..finish()

 private:
  struct Buffer {
    ParallelLayout layout;
    Communicator* partial;  // the tp ranks over which these gradients are partial
    std::vector<Parameter*> parameters;
    FlatLayout flat;
    Tensor data;
  };
  std::vector<std::vector<Buffer>> layers_;
  std::vector<Work> in_flight_;
  double waited_s_ = 0;
};

}  // namespace strata
