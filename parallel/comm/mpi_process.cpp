#include <mpi.h>

#include <cstdlib>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/process.h"

namespace strata {

bool mpi_built() noexcept { return true; }

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  // The first words name the library; the rest is build details.
  const std::string line = split(std::string_view(text, static_cast<size_t>(length)), '\n')[0];
  return std::string(trim(split(line, ',')[0]));
}

MpiProcess start_mpi() {
  int level = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level) != MPI_SUCCESS) {
    throw CommError("MPI_Init_thread failed.");
  }
  if (level < MPI_THREAD_SERIALIZED) {
    throw CommError(
        cat("This MPI library (", mpi_library(), ") offers no calls from threads; allowed: ",
            "MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE. Rebuild it with thread support."));
  }
  MpiProcess out;
  out.concurrent = level == MPI_THREAD_MULTIPLE;
  MPI_Comm_rank(MPI_COMM_WORLD, &out.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &out.size);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, out.rank, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &out.local_rank);
  MPI_Comm_size(node, &out.local_size);
  MPI_Comm_free(&node);
  return out;
}

bool mpi_running() noexcept {
  int started = 0, finished = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&finished);
  return started != 0 && finished == 0;
}

void finish_mpi() { MPI_Finalize(); }

void abort_mpi(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace strata
