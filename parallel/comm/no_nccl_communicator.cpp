#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace strata {

std::unique_ptr<Communicator> make_nccl_communicator(Communicator&, at::Device) {
  throw ConfigError("runtime.backend", "nccl", "mpi, self",
                    ": this build has no NCCL; install the CUDA Toolkit, run tools/setup.sh --cuda "
                    "and configure again");
}

}  // namespace strata
