#pragma once
#include <memory>

#include "models/gla/config.h"
#include "parallel/nn/mlp.h"

namespace strata {

// B batch, T time, D model width, H query heads here, G key/value heads here, K and V key and value
// width of a head
class GlaMixer final : public Region {
 public:
  GlaMixer(const GlaConfig& c, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  Tensor convolve(const char* name, const Tensor& x_BTC, const Tensor& weight_C1W,
                  const Batch& batch) const;
  GlaConfig c_;
  Linear q_, k_, v_, gate_, decay_in_, decay_out_, o_;
  Tensor q_conv_, k_conv_, v_conv_, norm_;
};

class GlaBlock final : public Layer {
 public:
  GlaBlock(const GlaConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  RmsNorm attn_norm_, mlp_norm_;
  std::shared_ptr<Region> attn_;
  std::shared_ptr<SwigluMlp> mlp_;
  std::shared_ptr<Residual> attn_residual_, mlp_residual_;
};

}  // namespace strata
