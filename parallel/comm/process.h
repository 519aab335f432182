#pragma once
// Start and end of this process in its MPI job. In a build without MPI, start_mpi() throws
// ConfigError.
#include <string>

namespace strata {

struct MpiProcess {
  int rank = 0, size = 1;              // in MPI_COMM_WORLD
  int local_rank = 0, local_size = 1;  // among the ranks of this node
  bool concurrent = false;             // MPI_THREAD_MULTIPLE; false: MPI_THREAD_SERIALIZED
};

bool mpi_built() noexcept;
std::string mpi_library();  // "Open MPI v4.1.4", "none"

// MPI_Init_thread, asking for MPI_THREAD_MULTIPLE. Throws CommError when the library offers less
// than SERIALIZED.
MpiProcess start_mpi();
bool mpi_running() noexcept;            // started and not finished
void finish_mpi();                      // MPI_Finalize; Collective over the job
[[noreturn]] void abort_mpi(int code);  // MPI_Abort of the whole job

}  // namespace strata
