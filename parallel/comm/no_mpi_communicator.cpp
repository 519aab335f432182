#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace strata {

std::unique_ptr<Communicator> make_mpi_communicator() {
  throw ConfigError("runtime.backend", "mpi", "self",
                    ": this build has no MPI; install the packages libopenmpi-dev and openmpi-bin "
                    "and configure again");
}

}  // namespace strata
