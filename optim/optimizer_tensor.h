#pragma once
// A part of the weights or of the optimizer's memory as a logical tensor.
#include <string>

#include "core/tensor.h"
#include "parallel/nn/parameter.h"

namespace strata {

struct OptimizerTensor {
  std::string slot;  // "master" for weights, "m", "Q_L", "t": number of updates
  std::string path;  // "/model/<name>", "/optim/<name>/m", "/optim/<name>/soap/0/Q_L"
  const ParamMeta* meta = nullptr;
  Shape global;
  Box box;
  Tensor values;          // of the box's extent
  bool in_model = false;  // the model's own memory
};

// What of the state begins anew when a checkpoint is loaded. Matrix: that of rules on matrices.
enum class OptimizerReset { None, Matrix, All };

}  // namespace strata
