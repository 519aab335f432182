#pragma once
#include <memory>

#include "models/deltaproduct/config.h"
#include "parallel/nn/mlp.h"

namespace strata {

// B batch, T time, D model width, n steps per token, M = T n, H query/key heads here, G value heads
// here, K and V key and value width of a head
class DeltaProductMixer final : public Region {
 public:
  DeltaProductMixer(const DeltaProductConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  // Convolution and activation of what a projection gave, as [B, T steps, heads, width].
  Tensor stream(const char* name, const Tensor& x_BTC, const Tensor& weight_C1W,
                const std::string& activation, int64_t width, const Batch& batch) const;
  Tensor normalised(const Tensor& x, double scale) const;
  Tensor beta(const Tensor& x_BTD, const Tensor& k_BMHK, int64_t heads) const;
  Tensor decay(const Tensor& x_BTD) const;
  // Root mean square norm and gate; z undefined: no gate.
  Tensor output_norm(const Tensor& o_BTGV, const Tensor& z_BTGV) const;

  DeltaProductConfig c_;
  int parts_;  // ranks that share a value head, each with a part of its V columns; usually 1
  Linear q_, k_, v_, b_, a_, gate_, o_;
  Tensor q_conv_, k_conv_, v_conv_, A_log_, dt_bias_, norm_;
};

class DeltaProductBlock final : public Layer {
 public:
  DeltaProductBlock(const DeltaProductConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  RmsNorm attn_norm_, mlp_norm_;
  std::shared_ptr<Region> attn_;
  std::shared_ptr<SwigluMlp> mlp_;
  std::shared_ptr<Residual> attn_residual_, mlp_residual_;
};

}  // namespace strata
