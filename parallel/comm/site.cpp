#include "parallel/comm/site.h"

namespace strata {

const char* site_op_name(SiteOp op) {
  switch (op) {
    case SiteOp::None:
      return "";
    case SiteOp::RegionEnter:
      return "region_enter";
    case SiteOp::RegionExit:
      return "region_exit";
    case SiteOp::Embedding:
      return "embedding";
    case SiteOp::LossMax:
      return "loss_max";
    case SiteOp::LossSums:
      return "loss_sums";
    case SiteOp::Accuracy:
      return "accuracy";
    case SiteOp::Logits:
      return "logits";
    case SiteOp::GradTensorSum:
      return "grad_tensor_sum";
    case SiteOp::GradDataSum:
      return "grad_data_sum";
    case SiteOp::TiedSum:
      return "tied_sum";
    case SiteOp::Norm:
      return "norm";
    case SiteOp::Control:
      return "control";
    case SiteOp::ParamGather:
      return "param_gather";
    case SiteOp::Relayout:
      return "relayout";
    case SiteOp::Pipeline:
      return "pipeline";
    case SiteOp::Checkpoint:
      return "checkpoint";
    case SiteOp::Data:
      return "data";
    case SiteOp::Startup:
      return "startup";
    case SiteOp::Check:
      return "check";
    case SiteOp::RowSums:
      return "row_sums";
    case SiteOp::MatrixExchange:
      return "matrix_exchange";
    case SiteOp::Test:
      return "test";
  }
  return "unknown";
}

}  // namespace strata
