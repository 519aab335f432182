#pragma once
// Pieces are independent: where there are many, threads take whole ones; else all threads work on
// one after another.
#include <functional>
#include <span>

#include "optim/update_rule.h"

namespace strata {

// update(piece) for every piece, the dearest first by rule.cost(rows, cols). The bits of a piece
// must not depend on which others there are. Threads::Any: nor on the number of threads that work
// on it, which is so for our own kernels. Threads::One: each piece on one thread, as LAPACK and
// sums over whole tensors need it for that.
enum class Threads { Any, One };
void for_each_piece(std::span<Piece> pieces, const UpdateRule& rule, Threads threads,
                    const std::function<void(Piece&)>& update);

}  // namespace strata
