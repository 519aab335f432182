#pragma once
// The process grid as one layer sees it: pure arithmetic. World rank = stage * S + dp_index * tp +
// tp_index.
#include <vector>

#include "parallel/plan/plan.h"

namespace strata {

struct Coordinates {
  int stage = 0, dp = 0, tp = 0;
  bool operator==(const Coordinates&) const = default;
};

enum class MeshAxis { Pipeline, Data, Tensor };

class Mesh {
 public:
  Mesh(int world_size, int stages, const LayerStrategy& strategy);
  Coordinates coordinates(int world_rank) const;
  int rank_of(const Coordinates& at) const;
  // World ranks that differ from world_rank along this axis only, in increasing order.
  std::vector<int> group(MeshAxis axis, int world_rank) const;
  std::vector<std::vector<int>> all_groups(MeshAxis axis) const;

 private:
  int stages_, stage_size_, dp_, tp_;
};

}  // namespace strata
