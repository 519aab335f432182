#pragma once
// Pieces are independent: where there are many, threads take whole ones; else all threads work on
// one after another.
#include <functional>
#include <span>

#include "optim/update_rule.h"

namespace strata {

// update(piece) for every piece, the dearest first by rule.cost(rows, cols). The bits of a piece
// must not depend on which others there are. Threads::Any: `update` gives the same on any number of
// threads, which is so for our own kernels. Threads::One: it does not (LAPACK, sums over whole
// tensors), so that every piece is left to one thread of the parallel region.
enum class Threads { Any, One };
void for_each_piece(std::span<Piece> pieces, const UpdateRule& rule, Threads threads,
                    const std::function<void(Piece&)>& update);

// Pieces of shared matrices, as many at a time as one collective should take.
void for_shared_batches(std::span<Piece> pieces,
                        const std::function<void(std::span<Piece>)>& update);

}  // namespace strata
