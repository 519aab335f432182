#pragma once
// Geometry of boxes: intersection and the proof that boxes cover a tensor exactly. Pure; private to
// this folder.
#include <optional>
#include <string>
#include <vector>

#include "parallel/nn/shard.h"

namespace strata::checkpoint_detail {

std::optional<Box> intersect(const Box& a, const Box& b);  // empty when they share no element

// "" when the boxes (all inside `global`) cover every element exactly once, else what is wrong in
// one sentence.
std::string why_not_tiled(const std::vector<int64_t>& global, const std::vector<const Box*>& boxes);

}  // namespace strata::checkpoint_detail
