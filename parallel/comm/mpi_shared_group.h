#pragma once
// Collectives among processes of one node through memory that all of them map. Private to the MPI
// backend.
//
// Protocol. Every rank owns one counter, its epoch, and two halves of an arena. All ranks run the
// same steps: do some work, publish the next epoch e (release), wait until all have published e
// (acquire), do some work, ... Work between the waits for epochs e - 1 and e may write only into
// the half e mod 2 of the rank's own arena; peers read it after their wait for e and before they
// publish e + 1. The half is written again only after the wait for e + 1, when nobody reads it any
// more. The rule also holds across the border of two operations, so none of them needs a barrier at
// its end unless peers read or write its tensors directly.
//
// Tensors in a common SharedSegment are reduced where they lie; others go through the arenas in
// chunks that stay in the cache. Which way is taken is decided from all ranks' published
// descriptors, therefore alike everywhere.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi_engine.h"
#include "parallel/comm/mpi_shared_memory.h"

namespace strata {

class SharedGroup {
 public:
  static constexpr size_t kHeaderBytes = 4096;

  // `segment` has kHeaderBytes + 2 * half_bytes for each member of the communicator, in rank order.
  SharedGroup(std::string name, std::vector<int> job_ranks, int rank,
              std::shared_ptr<SharedSegment> segment, size_t half_bytes,
              std::shared_ptr<SegmentRegistry> registry);

  const std::string& name() const noexcept { return name_; }
  int rank() const noexcept { return rank_; }
  int size() const noexcept { return static_cast<int>(lines_.size()); }
  size_t half_bytes() const noexcept { return half_bytes_; }

  struct Descriptor {
    uint64_t signature, segment, offset;  // segment 0: the tensor is private
  };
  // What the signature stands for, read only to explain a mismatch.
  struct Details {
    uint64_t sequence, count;
    int32_t peer;
    uint16_t layer, site;
    uint8_t op, dtype, reduce;
  };

  // Writes this rank's descriptor for the operation that begins now.
  void describe(const Descriptor& descriptor, const CommOperation& operation);
  void publish();
  // All members have published as many epochs as this rank.
  bool all_here();
  // After the first all_here() of an operation: throws DesyncError when the members run different
  // ones.
  void compare(const OpLog* log) const;
  const Descriptor& descriptor(int rank) const;

  char* own_half() const { return halves_[(epoch_ + 1) & 1][rank_]; }     // to be published next
  const char* half(int rank) const { return halves_[epoch_ & 1][rank]; }  // published last

  // Blocks of all members in the segment that holds these bytes; null when they are private.
  const SharedSegment* find(const void* address, size_t bytes) const {
    return registry_->find(address, bytes);
  }
  const std::vector<int>& job_ranks() const noexcept { return job_ranks_; }

 private:
  struct alignas(64) Line {
    std::atomic<uint64_t> epoch;
    Descriptor descriptors[2];
  };
  static_assert(sizeof(Line) == 64);
  Details* details(int rank, int parity) const;

  std::string name_;
  std::vector<int> job_ranks_;
  int rank_;
  std::shared_ptr<SharedSegment> segment_;
  std::shared_ptr<SegmentRegistry> registry_;
  size_t half_bytes_;
  std::vector<Line*> lines_;
  std::vector<char*> halves_[2];
  uint64_t epoch_ = 0;
  int behind_ = 0;  // first member not yet known to be here
};

// The operation to run; tensors are on the CPU. `in` is undefined where there is one tensor only.
struct SharedCall {
  CommOperation operation;
  Tensor out = {}, in = {};
  std::vector<int64_t> borders = {};  // elements: parts of unequal length; empty: equal ones
  ReduceOp reduce = ReduceOp::Sum;
  int root = 0;
};
std::shared_ptr<MpiTask> make_shared_task(std::shared_ptr<SharedGroup> group, SharedCall call,
                                          std::shared_ptr<OpLog> log);

}  // namespace strata
