#include "models/parts/decoder_spec.h"

#include "core/text.h"

namespace strata {

DecoderSpec::DecoderSpec(DecoderShape shape, const BlockParts& parts, const ModelOptions& options)
    : shape_(std::move(shape)), parts_(parts) {
  shape_.head.loss = options.loss;
  shape_.head.chunk_tokens = options.head_chunk_tokens;
  shape_.head.tied = shape_.tied;
  shape_.head.reduce = parts.residual.head_reduce();
  if (shape_.tied) shape_.head.weight_name = embedding_weight();
}

std::string DecoderSpec::layer_name(int layer) const {
  if (layer == 0) return shape_.embedding_layer;
  return layer == layer_count() - 1 ? "lm_head" : cat(shape_.block_layer, layer - 1);
}

std::string DecoderSpec::parameter_prefix(int layer) const {
  if (layer == 0) return shape_.embedding_prefix;
  return layer == layer_count() - 1 ? "" : layer_name(layer) + ".";
}

std::string DecoderSpec::cost_class(int layer) const {
  if (layer == 0) return "embedding";
  if (layer == layer_count() - 1) return "head";
  const std::string kind = block_cost_class(layer - 1);
  return parts_.linears.low_rank() ? cat(kind, " ", layer - 1) : kind;
}

std::shared_ptr<Layer> DecoderSpec::make_layer(int layer, const ParallelLayout& layout) const {
  if (layer == 0) {
    return std::make_shared<EmbeddingLayer>(shape_.vocabulary, shape_.width, shape_.embedding,
                                            layout);
  }
  if (layer < layer_count() - 1) return make_block(layer - 1, layout);
  return std::make_shared<HeadLayer>(shape_.width, shape_.vocabulary, shape_.head, layout);
}

Shape DecoderSpec::boundary(int layer, int64_t rows, int64_t time) const {
  const bool block = layer > 0 && layer < layer_count() - 1;
  return {rows, time, block ? parts_.residual.boundary_width(shape_.width) : shape_.width};
}

double DecoderSpec::flops_per_token(int layer, int64_t time) const {
  if (layer == 0) return 0;
  if (layer < layer_count() - 1) {
    return block_flops_per_token(layer - 1, time) +
           2 * parts_.residual.flops_per_token(shape_.width);
  }
  return 2.0 * static_cast<double>(shape_.width) * static_cast<double>(shape_.vocabulary);
}

std::vector<SharedParameter> DecoderSpec::shared_parameters() const {
  if (!shape_.tied) return {};
  return {{embedding_weight(), {0, layer_count() - 1}, {"lm_head.weight"}}};
}

bool DecoderSpec::foreign_ignored(const std::string& name) const {
  return shape_.tied && name == "lm_head.weight";
}

}  // namespace strata
