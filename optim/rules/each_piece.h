#pragma once
// Pieces are independent: where there are many, threads take whole ones; else all threads work on
// one after another.
#include <functional>
#include <span>

#include "optim/update_rule.h"

namespace strata {

// update(piece) for every piece, the dearest first by cost(rows, cols). One piece's bits must not
// depend on the number of threads that work on it.
void for_each_piece(std::span<Piece> pieces, const UpdateRule& rule,
                    const std::function<void(Piece&)>& update);

}  // namespace strata
