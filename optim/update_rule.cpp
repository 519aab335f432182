#include "optim/update_rule.h"

#include <ATen/TensorOperators.h>

#include "core/text.h"

namespace strata {

std::string Piece::matrix_name() const {
  return index == 0 ? std::string(name) : cat(name, '/', index);
}

double UpdateRule::cost(int64_t rows, int64_t cols) const {
  return static_cast<double>(rows) * static_cast<double>(cols);
}

void UpdateRule::update_shared(std::span<Piece>, int64_t, const SumOverSlabs&) const {
  throw InternalError(name() + " shares no matrices");
}

void apply_direction(Piece& piece, const Tensor& direction, DecayOrder order) {
  const double keep = 1 - piece.lr * piece.decay;
  if (order == DecayOrder::Before && keep != 1) piece.weights.mul_(keep);
  piece.weights.add_(direction, -piece.lr);
  if (order == DecayOrder::After && keep != 1) piece.weights.mul_(keep);
  if (piece.rounded.defined()) piece.rounded.copy_(piece.weights);
}

}  // namespace strata
