#include <unistd.h>

#include "core/error.h"
#include "parallel/comm/process.h"

namespace strata {

bool mpi_built() noexcept { return false; }
std::string mpi_library() { return "none"; }
MpiProcess start_mpi() {
  throw ConfigError("runtime.backend", "mpi", "self", " (this binary was built without MPI)");
}
bool mpi_running() noexcept { return false; }
void finish_mpi() {}
void abort_mpi(int code) { ::_exit(code); }

}  // namespace strata
