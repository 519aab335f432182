#pragma once
// The MPI backend behind make_mpi_communicator(), with the settings that tests and benchmarks vary.
// Private to parallel/comm and its tests.
#include <cstddef>
#include <memory>

#include "parallel/comm/communicator.h"

namespace strata {

struct MpiOptions {
  // Tests: treat every so many processes of a node as a node of its own, so that one machine
  // exercises groups that span nodes. 0: believe MPI.
  int ranks_per_node = 0;
  // Bytes of each half of the arena that one rank keeps for one group (mpi_shared_group.h).
  size_t half_bytes = size_t{256} << 10;
};

// Collective over MPI_COMM_WORLD.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options);

}  // namespace strata
