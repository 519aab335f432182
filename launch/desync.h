#pragma once
// Once per step, the members of every communicator compare how many collectives they issued and
// what these were (comm.check = step). Ranks that went different ways are found before their
// results are used any further.
#include "parallel/comm/pool.h"

namespace strata {

// Collective over the job. Throws DesyncError on the ranks that see a difference.
void check_sequences(CommPool& pool);

}  // namespace strata
