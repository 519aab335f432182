#pragma once
// The proof that boxes cover a tensor exactly. Pure; private to this folder.
#include <string>
#include <vector>

#include "parallel/nn/shard.h"

namespace strata::checkpoint_detail {

// "" when the boxes (all inside `global`) cover every element exactly once, else what is wrong in
// one sentence.
std::string why_not_tiled(const std::vector<int64_t>& global, const std::vector<const Box*>& boxes);

}  // namespace strata::checkpoint_detail
