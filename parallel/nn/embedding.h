#pragma once
// The first layer: token rows of a vocabulary-cut table, summed over tp (one non-zero term, hence
// exact), plus learned positions and dropout where a family has them.
#include "parallel/nn/module.h"

namespace strata {

struct EmbeddingOptions {
  std::string weight_name = "weight";  // relative to the layer
  double init_std = 0.02;
  int64_t positions = 0;  // > 0: learned position table of this many rows
  std::string position_name;
  double position_init_std = 0.02;
  double dropout = 0;
};

class EmbeddingLayer final : public Layer {
 public:
  EmbeddingLayer(int64_t vocabulary, int64_t width, EmbeddingOptions options,
                 const ParallelLayout& layout);
  // [B, T, D] in the compute dtype; under sequence parallelism the rank's own tokens.
  Tensor forward(const Tensor& x, const Batch& batch) override;

 private:
  int64_t vocabulary_, width_;
  EmbeddingOptions options_;
  Tensor weight_, positions_;
};

}  // namespace strata
