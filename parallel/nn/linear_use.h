#pragma once
// How an undeclared linear is applied, once its region is cut (auto_split.h). Private to
// parallel/nn.
#include <optional>
#include <string>

#include "core/range.h"
#include "core/tensor.h"
#include "parallel/nn/auto_split.h"
#include "parallel/nn/layout.h"

namespace strata {

struct LinearUse {
  enum class Bias { Inside, After, Region };  // added at once, to the completed sum, by the region
  std::string name;                           // full, for errors
  std::optional<ParallelLayout> layout;       // set where something is cut
  int64_t features = 0;                       // of the input it is given
  std::optional<Range> own;  // features of a whole input that this rank reads; unset: all it gets
  AfterLinear after = AfterLinear::Nothing;
  Bias bias = Bias::Inside;

  Tensor apply(const Tensor& x, const Tensor& weight, const Tensor& bias_value) const;
};

}  // namespace strata
