#pragma once
#include <memory>

#include "models/matmul_free/config.h"
#include "models/parts/residual.h"
#include "parallel/nn/bit_linear.h"

namespace strata {

// Token mixer: a gated recurrence of each channel, between ternary linears.
// B batch, T time, D model width, E channels here
class MatmulFreeMixer final : public Region {
 public:
  MatmulFreeMixer(const MatmulFreeConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;
  std::vector<BitLinear*> linears() const { return {i_.get(), f_.get(), g_.get(), o_.get()}; }

 private:
  Tensor bound() const;  // of the forget gates of this block's channels; undefined: none
  MatmulFreeConfig c_;
  int block_;
  std::shared_ptr<BitLinear> i_, f_, g_, o_;
  Tensor theta_LE_;  // all blocks, all channels
  Tensor g_norm_E_;
  ops::FeatureGroup channels_;
};

// Channel mixer: SwiGLU with ternary linears, gate and up in one.
class MatmulFreeMlp final : public Region {
 public:
  MatmulFreeMlp(const MatmulFreeConfig& c, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;
  bool recompute_selectively() const override { return true; }
  std::vector<BitLinear*> linears() const { return {gate_.get(), down_.get()}; }

 private:
  std::shared_ptr<BitLinear> gate_, down_;
};

class MatmulFreeBlock final : public Layer {
 public:
  MatmulFreeBlock(const MatmulFreeConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;
  void weights_changed() override { refresh_codes(linears_, layout()); }
  bool watches_weights() const override { return true; }

 private:
  RmsNorm attn_norm_, mlp_norm_;
  std::shared_ptr<MatmulFreeMixer> attn_;
  std::shared_ptr<MatmulFreeMlp> mlp_;
  std::shared_ptr<Residual> attn_residual_, mlp_residual_;
  std::vector<BitLinear*> linears_;
};

}  // namespace strata
