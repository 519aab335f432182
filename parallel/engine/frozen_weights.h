#pragma once
// Weights that are not trained (ModelSpec::freeze): no optimizer has them, so checkpoints keep them
// through these.
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/engine/manager.h"

namespace strata {

// Offers this rank's frozen weights as /model/<name>, in the type in which they are held.
void save_frozen(ParallelManager& model, CheckpointWriter& out);
// Fills them from a source; ParallelManager::weights_changed() must follow.
void load_frozen(ParallelManager& model, const WeightSource& source);

}  // namespace strata
