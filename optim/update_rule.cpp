#include "optim/update_rule.h"

#include "core/text.h"
#include "optim/matrix/passes.h"

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

void apply_direction(Piece& piece, const Tensor& direction, DecayOrder order, double scale) {
  const double keep = 1 - piece.lr * piece.decay;
  const bool before = order == DecayOrder::Before;
  move_weights(piece.weights, direction, piece.lr * scale, before ? keep : 1, before ? 1 : keep,
               piece.rounded);
}

}  // namespace strata
