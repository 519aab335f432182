#include "models/hydra/block.h"

#include <ATen/TensorOperators.h>

namespace strata {

HydraBlock::HydraBlock(const HydraConfig& c, int block, const ParallelLayout& layout)
    : Layer(layout),
      prenorm_(c.is_prenorm),
      last_(block == c.num_hidden_layers - 1),
      zero_padding_(last_ && !c.mask_pad) {
  norm_ = layer_norm("norm", c.hidden_size, 1e-5);
  mixer_ = add<HydraMixer>("mixer", c, block, layout);
  if (prenorm_ && last_) final_norm_ = layer_norm("norm_f", c.hidden_size, c.layer_norm_eps);
}

Tensor HydraBlock::forward(const Tensor& x_BTD, const Batch& batch) {
  Tensor y_BTD =
      prenorm_ ? x_BTD + (*mixer_)(norm_(x_BTD), batch) : norm_((*mixer_)(x_BTD, batch) + x_BTD);
  if (prenorm_ && last_) y_BTD = final_norm_(y_BTD);
  // The authors' encoder hands on zeros for padding.
  if (zero_padding_ && batch.segments.defined()) {
    y_BTD = y_BTD * own_tokens(batch.segments).ge(0).unsqueeze(-1).to(y_BTD.scalar_type());
  }
  return y_BTD;
}

}  // namespace strata
