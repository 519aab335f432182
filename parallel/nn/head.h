#pragma once
// The last layer: final norm, vocabulary-cut projection, cross entropy. Logits of a chunk of tokens
// at a time are held, never [tokens, vocabulary]; the gradient is formed in the forward pass and
// scaled in the backward.
#include <optional>

#include "core/ops/cross_entropy.h"
#include "parallel/nn/bit_linear.h"

namespace strata {

// A residual stream held as several: [B, T, n D]. Each is normalised and the results are added, or
// their sum (mean) is normalised.
struct StreamReduce {
  enum class Order { NormThenSum, SumThenNorm, MeanThenNorm };
  int64_t streams = 1;
  Order order = Order::NormThenSum;
};

struct HeadOptions {
  enum class Norm { None, Rms, Layer };
  Norm norm = Norm::Rms;
  std::string norm_name = "model.norm";
  double norm_eps = 1e-5;
  bool norm_bias = true;  // of Norm::Layer
  StreamReduce reduce;
  // Between norm and projection: layer_norm(activation(dense(x))); empty: nothing. Its parameters
  // are <name>.dense and <name>.LayerNorm.
  std::string transform_name;
  std::string transform_activation = "gelu";
  double transform_eps = 1e-12;
  std::string weight_name = "lm_head.weight";  // the embedding's name when tied
  std::string bias_name;                       // of the logits; empty: none
  // Tokens without a label are left out of the projection: worth it where few are labelled.
  bool labelled_only = false;
  bool tied = false;
  double init_std = 0.02;
  // Ternary head (then never tied): parameters NAME and NAME with `.weight` replaced by
  // `.norm.weight`.
  std::optional<BitLinearOptions> bit;
  ops::CrossEntropyOptions loss;
  int64_t chunk_tokens = 1024;
};

class HeadLayer final : public Layer {
 public:
  HeadLayer(int64_t width, int64_t vocabulary, HeadOptions options, const ParallelLayout& layout);
  Tensor forward(const Tensor& x, const Batch& batch) override;  // [2]: loss sum, correct
  Tensor logits(const Tensor& x) override;
  void weights_changed() override;
  bool watches_weights() const override { return bit_ != nullptr; }

 private:
  Tensor normalise(const Tensor& x) const;  // [B, T, D] of one stream or several
  Tensor reduced(const Tensor& x) const;    // normalise without the transform
  Tensor norm(const Tensor& x) const;
  int64_t width_, vocabulary_;
  HeadOptions options_;
  RmsNorm rms_;
  LayerNorm layer_;
  Linear dense_;
  LayerNorm transform_norm_;
  Tensor weight_, bias_;
  BitLinear* bit_ = nullptr;
};

}  // namespace strata
