#pragma once
#include <memory>

#include "models/gpt2/config.h"
#include "models/parts/residual.h"
#include "parallel/nn/module.h"

namespace strata {

// B batch, T time, C model width, H heads here, K head width
class Gpt2Attention final : public Region {
 public:
  Gpt2Attention(const Gpt2Config& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTC, const Batch& batch) override;
  // With dropout the probabilities of all pairs of tokens are formed and would be kept.
  bool recompute_selectively() const override { return c_.attn_pdrop > 0; }

 private:
  Gpt2Config c_;
  double scale_;
  Linear qkv_, out_;
};

class Gpt2Mlp final : public Region {
 public:
  Gpt2Mlp(const Gpt2Config& c, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTC, const Batch& batch) override;
  bool recompute_selectively() const override { return true; }

 private:
  std::string activation_;
  Linear up_, down_;
};

class Gpt2Block final : public Layer {
 public:
  Gpt2Block(const Gpt2Config& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTC, const Batch& batch) override;

 private:
  double resid_pdrop_;
  LayerNorm attn_norm_, mlp_norm_;
  std::shared_ptr<Gpt2Attention> attn_;
  std::shared_ptr<Gpt2Mlp> mlp_;
  std::shared_ptr<Residual> attn_residual_, mlp_residual_;
};

}  // namespace strata
