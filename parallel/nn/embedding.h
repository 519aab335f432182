#pragma once
// The first layer: token rows of a vocabulary-cut table, summed over tp (one non-zero term, hence
// exact), plus learned positions, a token type, a norm and dropout where a family has them.
#include "parallel/nn/module.h"

namespace strata {

struct EmbeddingOptions {
  std::string weight_name = "weight";  // relative to the layer
  double init_std = 0.02;
  int64_t positions = 0;  // > 0: learned position table of this many rows
  std::string position_name;
  double position_init_std = 0.02;
  int64_t token_types = 0;  // > 0: a table of this many rows, of which row 0 is added everywhere
  std::string token_type_name;
  std::string norm_name;  // layer norm of the sum; empty: none
  double norm_eps = 1e-12;
  double dropout = 0;
  int64_t padding_id = -1;  // look-ups of this id give its row no gradient; -1: every id learns
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
  Tensor weight_, positions_, token_types_;
  LayerNorm norm_;
};

}  // namespace strata
