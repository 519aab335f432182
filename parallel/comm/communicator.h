#pragma once
// A fixed group of processes and the collectives they run together. Every method except exchange()
// is Collective: all members call it, in the same order, with equal sizes and types. A group of one
// is a no-op, never a special case: code does not ask whether it runs in parallel.
//
// Arguments are checked once here (contiguous, same device, supported dtype, matching sizes:
// InternalError); backends implement do_*. Failures of a backend throw CommError naming
// communicator, operation and sequence number. Sums on CPU use one order always: the binary tree
// over ranks (pairs, then pairs of results), accumulated in fp32 (fp64 for fp64), 16-bit inputs
// widened, one rounding; results do not depend on timing. Only the main thread calls communicators
// (on CUDA also the autograd thread while the main thread waits).
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/site.h"
#include "parallel/comm/work.h"

namespace strata {

enum class ReduceOp { Sum, Min, Max };

struct Transfer {
  enum class Kind { Send, Recv };
  Kind kind;
  Tensor tensor;  // contiguous; received into for Recv
  int peer;       // rank in the communicator
};

class OpLog;           // parallel/comm/op_log.h
struct CommOperation;  // parallel/comm/operation.h: what is being issued, for backends

class Communicator {
 public:
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return static_cast<int>(ranks_.size()); }
  const std::vector<int>& ranks() const noexcept {
    return ranks_;
  }  // members as ranks of the job, in rank order
  const std::string& name() const noexcept { return name_; }  // "tp[4,5]": in logs, errors, traces
  virtual std::string_view backend() const noexcept = 0;      // "nccl", "mpi", "self", "null"

  Work all_reduce(const Tensor& inout, ReduceOp op = ReduceOp::Sum, Site site = {});
  Work all_gather(const Tensor& out, const Tensor& in,
                  Site site = {});  // out: dim 0 is size() times that of in
  Work reduce_scatter(const Tensor& out, const Tensor& in,
                      Site site = {});  // sums; in: dim 0 is size() times that of out
  // The same with parts of any length of a flat tensor: rank r's is [borders[r], borders[r + 1]).
  // borders: size() + 1 numbers from 0 to whole.numel(), not decreasing, alike on all members.
  // reduce_scatter_parts: out may be this rank's part of whole; what the others' parts hold
  // afterwards is undefined where it is. all_gather_parts: this rank's part is in place.
  Work reduce_scatter_parts(const Tensor& out, const Tensor& whole,
                            std::span<const int64_t> borders, Site site = {});
  Work all_gather_parts(const Tensor& whole, std::span<const int64_t> borders, Site site = {});
  Work all_to_all(const Tensor& out, const Tensor& in, Site site = {});  // equal blocks of dim 0
  Work broadcast(const Tensor& inout, int root, Site site = {});
  // One group of sends and receives that cannot block each other. Only the ranks involved call it;
  // between two ranks transfers match in the order given.
  Work exchange(std::span<const Transfer> transfers, Site site = {});
  void barrier(Site site = {});

  // Small host data.
  void broadcast_bytes(std::string& bytes, int root);
  std::vector<std::string> gather_bytes(const std::string& bytes,
                                        int root);  // on root: one per rank; elsewhere empty
  std::vector<std::string> all_gather_bytes(const std::string& bytes);

  // The communicator of some members, given as ranks of this communicator in increasing order.
  // Collective over those members only; others do not call it.
  std::unique_ptr<Communicator> subgroup(std::span<const int> ranks, std::string name);

  // A flat buffer in the memory this backend reduces fastest (shared window for ranks of one node,
  // device memory for NCCL). Collective: equal sizes. Zero filled. The communicator must outlive
  // the tensor's last collective, not the tensor.
  Tensor allocate(int64_t elements, at::ScalarType dtype);

  // Its operations stay in order among themselves but never wait behind those of another
  // communicator: for transfers posted long before they complete. Before the first operation.
  virtual void use_own_queue() {}

  // Number of collectives issued so far and a running hash of their (operation, dtype, count, root,
  // site): the engine compares it once per step (comm.check = step), each call does (comm.check =
  // each).
  uint64_t sequence() const noexcept { return sequence_; }
  uint64_t sequence_hash() const noexcept { return hash_; }

  enum class Check { Off, Step, Each };
  void set_check(Check check) noexcept { check_ = check; }  // inherited by subgroups made later
  void set_op_log(std::shared_ptr<OpLog> log);              // inherited by subgroups made later

 protected:
  Communicator(std::vector<int> ranks, int rank, std::string name);

  virtual Work do_all_reduce(const Tensor& inout, ReduceOp op) = 0;
  virtual Work do_all_gather(const Tensor& out, const Tensor& in) = 0;
  virtual Work do_reduce_scatter(const Tensor& out, const Tensor& in) = 0;
  virtual Work do_reduce_scatter_parts(const Tensor& out, const Tensor& whole,
                                       std::span<const int64_t> borders) = 0;
  virtual Work do_all_gather_parts(const Tensor& whole, std::span<const int64_t> borders) = 0;
  virtual Work do_all_to_all(const Tensor& out, const Tensor& in) = 0;
  virtual Work do_broadcast(const Tensor& inout, int root) = 0;
  virtual Work do_exchange(std::span<const Transfer> transfers) = 0;
  virtual void do_barrier() = 0;
  virtual void do_broadcast_bytes(std::string& bytes, int root) = 0;
  virtual std::vector<std::string> do_all_gather_bytes(const std::string& bytes) = 0;
  virtual std::unique_ptr<Communicator> do_subgroup(std::vector<int> members,
                                                    std::string name) = 0;  // ranks of this
  virtual Tensor do_allocate(int64_t elements, at::ScalarType dtype) = 0;

  // May be null. A backend whose operation is not complete when do_* returns calls done() for each
  // of its records later.
  const std::shared_ptr<OpLog>& op_log() const noexcept { return op_log_; }
  // The operation being issued; valid inside do_*.
  const CommOperation& current() const noexcept { return *current_; }

 private:
  template <class Run>
  Work issue(CommOperation& operation, bool trivial, Run&& run);
  void compare_with_members(const CommOperation& operation);
  void check_tensor(const char* op, const char* what, const Tensor& tensor) const;
  void check_pair(const char* op, const Tensor& out, const Tensor& in, int64_t out_times,
                  int64_t in_times) const;
  void check_borders(const char* op, const Tensor& whole, std::span<const int64_t> borders) const;

  std::vector<int> ranks_;
  int rank_;
  std::string name_;
  uint64_t sequence_ = 0, hash_ = 0, exchanges_ = 0;
  std::vector<uint64_t> sent_bytes_, received_bytes_;  // by peer, for the flight record
  Check check_ = Check::Off;
  std::shared_ptr<OpLog> op_log_;
  uint32_t log_id_ = 0;
  const CommOperation* current_ = nullptr;
};

// One process.
std::unique_ptr<Communicator> make_self_communicator();
// Right shapes, no data: profiling any tp on one device, building any layout without processes.
// rank 0 of size. device: of what allocate() gives; kMeta for layouts without memory.
std::unique_ptr<Communicator> make_null_communicator(int size, int rank = 0,
                                                     at::Device device = at::kCPU);
// All processes of the MPI job, in logical rank order (by node, then local rank). MPI must be
// initialised.
std::unique_ptr<Communicator> make_mpi_communicator();
// NCCL over the same members as `bootstrap`, for tensors on `device`. Throws ConfigError in a build
// without NCCL.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap, at::Device device);

}  // namespace strata
