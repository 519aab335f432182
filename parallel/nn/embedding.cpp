#include "parallel/nn/embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>

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
  if (options_.token_types > 0) {
    token_types_ = param(options_.token_type_name, {options_.token_types, width}, replicated(),
                         Init::normal(options_.init_std), {.kind = ParamKind::Embedding});
  }
  if (!options_.norm_name.empty()) {
    norm_ = layer_norm(options_.norm_name, width, options_.norm_eps);
  }
}

Tensor EmbeddingLayer::forward(const Tensor&, const Batch& batch) {
  // Rows of other tp ranks contribute 0, so the sum at the exit has one non-zero term and is exact.
  const Range own = owned_ranges(split_vocabulary(layout().vocabulary_unit()),
                                 {vocabulary_, width_}, layout().tp_index(), layout().tp_size())[0];
  Tensor rows = ops::embedding(weight_, batch.tokens, own.begin);
  if (options_.padding_id >= 0) {
    rows = at::where(batch.tokens.eq(options_.padding_id).unsqueeze(-1), rows.detach(), rows);
  }
  Tensor y = region_exit(rows, layout(), SiteOp::Embedding);
  if (positions_.defined()) y = y + ops::embedding(positions_, own_tokens(batch.positions));
  if (token_types_.defined()) y = y + token_types_.select(0, 0);
  if (!options_.norm_name.empty()) y = norm_(y);
  return dropout("embedding_dropout", y, options_.dropout, batch);
}

}  // namespace strata
