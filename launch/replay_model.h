#pragma once
// A model whose gradients are given: layer by layer, its loss is the inner product of every
// parameter with the gradient recorded for the step (Batch::step), so that recorded updates are
// replayed through the engine and the optimizer in any layout. One parameter per layer; matrices
// are cut over tp by rows and by columns in turn where they can be.
#include <memory>
#include <string>
#include <vector>

#include "parallel/nn/model_spec.h"

namespace strata {

struct ReplayParameter {
  std::string name;
  Tensor start;      // fp64
  Tensor gradients;  // [T, ...] fp64
};

// The step's gradient of a parameter is exactly gradients[step] when the number of rows is a power
// of two. At least one parameter.
std::shared_ptr<const ModelSpec> make_replay_model(std::vector<ReplayParameter> parameters);
// Values of `start`.
class WeightSource;
std::unique_ptr<WeightSource> make_replay_weights(const std::vector<ReplayParameter>& parameters);

}  // namespace strata
