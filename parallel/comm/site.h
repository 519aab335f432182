#pragma once
// Where in a program a collective is issued: two small numbers fixed at build time, names in a
// table, so that logs and hang reports can say "model.layers.7, exit of a region" without carrying
// strings.
#include <cstdint>

namespace strata {

enum class SiteOp : uint16_t {
  None,
  RegionEnter,
  RegionExit,
  Embedding,
  LossMax,
  LossSums,
  Accuracy,
  Logits,
  GradTensorSum,
  GradDataSum,
  TiedSum,
  Norm,
  Control,
  ParamGather,
  Relayout,
  Pipeline,
  Checkpoint,
  Data,
  Startup,
  Check,
  RowSums,
  MatrixExchange,
  Test,
};
const char* site_op_name(SiteOp op);

struct Site {
  uint16_t layer = 0;  // layer number of the plan
  SiteOp op = SiteOp::None;
};

}  // namespace strata
