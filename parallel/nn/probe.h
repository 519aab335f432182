#pragma once
// Looks at what a model computes while it is evaluated: set Batch::probe. Nothing is looked at in
// training.
#include <string>

#include "core/batch.h"
#include "parallel/nn/layout.h"

namespace strata {

class Probe {
 public:
  virtual ~Probe() = default;
  // What a layer hands on (not the head's losses): [B, T, features], this rank's rows and, under
  // sequence parallelism, its part of the tokens. Called by all ranks of the layer, so collectives
  // over its groups are allowed.
  virtual void layer_output(int layer, const Tensor& y, const Batch& batch,
                            const ParallelLayout& layout) = 0;
  // What a module shows of itself (Module::show): [B, T, ...] of the tokens it sees.
  virtual void shown(const std::string& module, const std::string& what, const Tensor& value) = 0;
};

}  // namespace strata
