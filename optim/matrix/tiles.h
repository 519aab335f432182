#pragma once
// A matrix cut into tiles of block x block elements, ragged at the right and lower edge.
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace strata {

struct Tile {
  int64_t row = 0, rows = 0, col = 0, cols = 0;
  Tensor of(const Tensor& matrix) const;  // a view
};

// Row by row. block 0: one tile, the whole matrix.
std::vector<Tile> tiles_of(int64_t rows, int64_t cols, int64_t block);

}  // namespace strata
