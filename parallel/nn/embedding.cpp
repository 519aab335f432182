#include "parallel/nn/embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/where.h>

#include "core/error.h"

namespace strata {

EmbeddingLayer::EmbeddingLayer(int64_t vocabulary, int64_t width, EmbeddingOptions options, const ParallelLayout& layout)
    : Layer(layout), vocabulary_(vocabulary), width_(width), options_(std::move(options)) {
  weight_ = param(options_.weight_name, {vocabulary, width}, split_vocabulary(layout.vocabulary_unit()),
                  Init::normal(options_.init_std), {.kind = ParamKind::Embedding});
  if (options_.positions > 0) {
    positions_ = param(options_.position_name, {options_.positions, width}, replicated(),
                       Init::normal(options_.position_init_std), {.kind = ParamKind::Embedding});
  }
}

Tensor EmbeddingLayer::forward(const Tensor&, const Batch& batch) {
  STRATA_CHECK(!layout().strategy().sequence_parallel, "sequence-parallel embedding is not part of this version");
  Tensor y;
  if (layout().tp_size() == 1) {
    y = at::embedding(weight_, batch.tokens);
  } else {
    // Rows of other ranks contribute 0, so the sum has one non-zero term.
    const Range own = owned_ranges(split_vocabulary(layout().vocabulary_unit()), {vocabulary_, width_},
                                   layout().tp_index(), layout().tp_size())[0];
    Tensor mine = at::logical_and(batch.tokens.ge(own.begin), batch.tokens.lt(own.end));
    if (own.size() > 0) {
      Tensor local = at::where(mine, batch.tokens - own.begin, 0);
      y = at::embedding(weight_, local) * mine.unsqueeze(-1).to(weight_.scalar_type());
    } else {
      Shape shape = batch.tokens.sizes().vec();
      shape.push_back(width_);
      // Depends on the (empty) weight so that every rank runs the same backward.
      y = (weight_.sum() * 0).expand(shape);
    }
    y = region_exit(y, layout(), SiteOp::Embedding);
  }
  if (positions_.defined()) y = y + at::embedding(positions_, batch.positions);
  return dropout("embedding_dropout", y, options_.dropout, batch);
}

}  // namespace strata
