#pragma once
// What the specs of most families have in common: layer 0 is an embedding, the last layer a head,
// the layers between are blocks of one kind each.
#include <memory>
#include <string>

#include "models/parts/block_parts.h"
#include "models/register.h"
#include "parallel/nn/embedding.h"
#include "parallel/nn/head.h"

namespace strata {

// Names as in the llama family unless a family says otherwise.
struct DecoderShape {
  std::string family;
  int64_t vocabulary = 0, width = 0, blocks = 0;
  int64_t max_positions = 0;  // 0: unlimited
  bool tied = false;          // the head shares the embedding's weight
  std::string embedding_layer = "model.embed_tokens";
  std::string embedding_prefix = "model.embed_tokens.";  // of the layer's parameters
  std::string block_layer = "model.layers.";             // a block's number follows
  EmbeddingOptions embedding;
  HeadOptions head;  // loss, chunk_tokens, tied and, when tied, weight_name are filled in
};

// Of the families of flash-linear-attention, whose configs share these keys.
template <class Config>
DecoderShape fla_shape(const std::string& family, const Config& c) {
  DecoderShape shape;
  shape.family = family;
  shape.vocabulary = c.vocab_size;
  shape.width = c.hidden_size;
  shape.blocks = c.num_hidden_layers;
  shape.tied = c.tie_word_embeddings;
  shape.embedding_layer = "model.embeddings";
  shape.embedding_prefix = "model.embeddings.";
  shape.embedding.init_std = c.initializer_range;
  shape.head.norm_eps = c.norm_eps;
  shape.head.init_std = c.initializer_range;
  return shape;
}

class DecoderSpec : public ModelSpec {
 public:
  DecoderSpec(DecoderShape shape, const BlockParts& parts, const ModelOptions& options);

  std::string family() const override { return shape_.family; }
  int layer_count() const override { return static_cast<int>(shape_.blocks) + 2; }
  std::string layer_name(int layer) const override;
  std::string parameter_prefix(int layer) const override;
  std::string cost_class(int layer) const override;
  int64_t vocabulary() const override { return shape_.vocabulary; }
  int64_t max_positions() const override { return shape_.max_positions; }
  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override;
  Shape boundary(int layer, int64_t rows, int64_t time) const override;
  double flops_per_token(int layer, int64_t time) const override;
  std::vector<SharedParameter> shared_parameters() const override;
  bool foreign_ignored(const std::string& name) const override;

 protected:
  virtual std::shared_ptr<Layer> make_block(int block, const ParallelLayout& layout) const = 0;
  virtual double block_flops_per_token(int block, int64_t time) const = 0;
  // Blocks that cost the same have the same text.
  virtual std::string block_cost_class(int /*block*/) const { return "block"; }

 private:
  std::string embedding_weight() const {
    return shape_.embedding_prefix + shape_.embedding.weight_name;
  }
  DecoderShape shape_;
  BlockParts parts_;
};

}  // namespace strata
