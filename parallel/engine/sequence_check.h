#pragma once
// Once a step (comm.check = step): every communicator's members have issued the same collectives in the same order.
#include "parallel/comm/pool.h"

namespace strata {

// Collective over the job. Throws DesyncError naming the communicators whose members disagree.
void check_sequences(CommPool& pool);

}  // namespace strata
