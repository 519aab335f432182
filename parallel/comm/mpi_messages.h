#pragma once
// Operations made of MPI messages: exchange, bytes, and the collectives of groups that span nodes.
// Private to the MPI backend.
#include <mpi.h>

#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi_engine.h"
#include "parallel/comm/mpi_shared_group.h"

namespace strata {

// Owns an MPI communicator whose errors are returned, not fatal.
class MpiHandle {
 public:
  explicit MpiHandle(MPI_Comm comm);
  ~MpiHandle();
  MpiHandle(const MpiHandle&) = delete;
  MpiHandle& operator=(const MpiHandle&) = delete;
  MPI_Comm get() const noexcept { return comm_; }

 private:
  MPI_Comm comm_;
};

// Throws CommError with MPI's text for every code but MPI_SUCCESS.
void check_mpi(int code, const std::string& communicator, const std::string& what);

// What a task needs to know about its communicator.
struct MpiGroup {
  std::string name;
  std::shared_ptr<MpiHandle> comm;
  int rank = 0, size = 1;
};

std::shared_ptr<MpiTask> make_exchange_task(std::shared_ptr<MpiGroup> group,
                                            std::vector<Transfer> transfers,
                                            CommOperation operation);
// Collectives over messages: every rank owns a slice, sums it with tree_reduce and sends the result
// on.
std::shared_ptr<MpiTask> make_message_task(std::shared_ptr<MpiGroup> group, SharedCall call);
// Owns its data, so that it may outlive a caller that gave up waiting.
class MpiBytesTask : public MpiTask {
 public:
  std::string bytes;             // sent, or received by broadcast
  std::vector<std::string> all;  // gathered: one per rank
};
std::shared_ptr<MpiBytesTask> make_broadcast_bytes_task(std::shared_ptr<MpiGroup> group,
                                                        std::string bytes, int root);
std::shared_ptr<MpiBytesTask> make_gather_bytes_task(std::shared_ptr<MpiGroup> group,
                                                     std::string bytes);

}  // namespace strata
