#include "parallel/nn/embedding.h"

#include <ATen/TensorOperators.h>

#include "core/ops/embedding.h"

namespace strata {

EmbeddingLayer::EmbeddingLayer(int64_t vocabulary, int64_t width, EmbeddingOptions options,
                               const ParallelLayout& layout)
    : Layer(layout), vocabulary_(vocabulary), width_(width), options_(std::move(options)) {
  weight_ =
      param(options_.weight_name, {vocabulary, width}, split_vocabulary(layout.vocabulary_unit()),
            Init::normal(options_.init_std), {.kind = ParamKind::Embedding});
  if (options_.positions > 0) {
    positions_ = param(options_.position_name, {options_.positions, width}, replicated(),
                       Init::normal(options_.position_init_std), {.kind = ParamKind::Embedding});
  }
}

Tensor EmbeddingLayer::forward(const Tensor&, const Batch& batch) {
  // Rows of other tp ranks contribute 0, so the sum at the exit has one non-zero term and is exact.
  const Range own = owned_ranges(split_vocabulary(layout().vocabulary_unit()),
                                 {vocabulary_, width_}, layout().tp_index(), layout().tp_size())[0];
  Tensor y =
      region_exit(ops::embedding(weight_, batch.tokens, own.begin), layout(), SiteOp::Embedding);
  if (positions_.defined()) y = y + ops::embedding(positions_, own_tokens(batch.positions));
  return dropout("embedding_dropout", y, options_.dropout, batch);
}

}  // namespace strata
