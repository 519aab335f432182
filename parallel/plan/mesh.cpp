#include "parallel/plan/mesh.h"

#include "core/error.h"
#include "core/text.h"

namespace strata {

Mesh::Mesh(int world_size, int stages, const LayerStrategy& strategy)
    : stages_(stages), stage_size_(world_size / stages), dp_(strategy.dp), tp_(strategy.tp) {
  STRATA_CHECK(stages > 0 && world_size % stages == 0 && dp_ * tp_ == stage_size_,
               cat("mesh: ", world_size, " ranks, ", stages, " stages, dp ", dp_, ", tp ", tp_));
}

Coordinates Mesh::coordinates(int world_rank) const {
  const int in_stage = world_rank % stage_size_;
  return {world_rank / stage_size_, in_stage / tp_, in_stage % tp_};
}

int Mesh::rank_of(const Coordinates& at) const {
  return at.stage * stage_size_ + at.dp * tp_ + at.tp;
}

std::vector<int> Mesh::group(MeshAxis axis, int world_rank) const {
  Coordinates at = coordinates(world_rank);
  const int count = axis == MeshAxis::Pipeline ? stages_ : axis == MeshAxis::Data ? dp_ : tp_;
  std::vector<int> out;
  for (int i = 0; i < count; ++i) {
    (axis == MeshAxis::Pipeline ? at.stage : axis == MeshAxis::Data ? at.dp : at.tp) = i;
    out.push_back(rank_of(at));
  }
  return out;
}

std::vector<std::vector<int>> Mesh::all_groups(MeshAxis axis) const {
  std::vector<std::vector<int>> out;
  for (int rank = 0; rank < stages_ * stage_size_; ++rank) {
    auto ranks = group(axis, rank);
    if (ranks.front() == rank) out.push_back(std::move(ranks));
  }
  return out;
}

}  // namespace strata
