#pragma once
// What happens to an activation between two layers of different layout: the box plan of
// relayout_plan.h, executed. A pure copy, forwards and, for gradients, backwards.
#include <map>
#include <memory>

#include "core/tensor.h"
#include "parallel/comm/communicator.h"
#include "parallel/plan/relayout_plan.h"

namespace strata {

// Extent of a micro-batch, the same on all ranks of a stage.
struct MicrobatchShape {
  int64_t rows = 0, time = 0;
  bool whole_rows = false;  // generation: every rank holds all rows
  auto operator<=>(const MicrobatchShape&) const = default;
};

class Borders {
 public:
  // stage: the ranks that hold the same layers, in order.
  Borders(const Plan& plan, Communicator& stage) : plan_(&plan), stage_(&stage) {}

  // This rank's part of the output of `layer`.
  ActivationPart part(int layer, const MicrobatchShape& shape) const;
  // From the layout of layer - 1 to that of `layer`. Collective over the stage; x undefined stays
  // so. Extents of x beyond rows and tokens are free.
  Tensor enter(int layer, const Tensor& x, const MicrobatchShape& shape);
  // The gradient of what enter() made, back in the layout of layer - 1.
  Tensor leave(int layer, const Tensor& dx, const MicrobatchShape& shape);

 private:
  Tensor move(int from, int to, const Tensor& x, const MicrobatchShape& shape, int layer);

  const Plan* plan_;
  Communicator* stage_;
  std::map<std::tuple<int, int, MicrobatchShape>, std::unique_ptr<const RelayoutPlan>> plans_;
};

}  // namespace strata
