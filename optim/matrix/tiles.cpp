#include "optim/matrix/tiles.h"

#include <algorithm>

namespace strata {

Tensor Tile::of(const Tensor& matrix) const {
  return matrix.narrow(0, row, rows).narrow(1, col, cols);
}

std::vector<Tile> tiles_of(int64_t rows, int64_t cols, int64_t block) {
  if (block <= 0) return {{0, rows, 0, cols}};
  std::vector<Tile> out;
  for (int64_t r = 0; r < rows; r += block) {
    for (int64_t c = 0; c < cols; c += block)
      out.push_back({r, std::min(block, rows - r), c, std::min(block, cols - c)});
  }
  return out;
}

}  // namespace strata
