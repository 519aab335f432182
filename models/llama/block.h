#pragma once
#include <memory>

#include "core/ops/rope.h"
#include "models/llama/config.h"
#include "models/parts/residual.h"
#include "parallel/nn/mlp.h"

namespace strata {

// B batch, T time, D model width, H query heads here, G key/value heads here, K head width
class LlamaAttention final : public Region {
 public:
  LlamaAttention(const LlamaConfig& c, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;
  // With dropout the probabilities of all pairs of tokens are formed and would be kept.
  bool recompute_selectively() const override { return c_.attention_dropout > 0; }

 private:
  LlamaConfig c_;
  Linear q_, k_, v_, o_;
};

class LlamaBlock final : public Layer {
 public:
  LlamaBlock(const LlamaConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  RmsNorm attn_norm_, mlp_norm_;
  std::shared_ptr<LlamaAttention> attn_;
  std::shared_ptr<SwigluMlp> mlp_;
  std::shared_ptr<Residual> attn_residual_, mlp_residual_;
};

}  // namespace strata
