#pragma once
// Memory that the processes of one node map from each other: the arenas of the MPI backend and the
// buffers handed out by allocate(). Private to the MPI backend.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace strata {

// How a process offers memory to others. Anonymous: an unnamed memory file that peers open through
// /proc; it cannot be left behind and is not limited by the size of /dev/shm. Named: a shm_open
// object, unlinked as soon as all have mapped it (for processes that do not see each other in
// /proc). None: neither works here.
enum class SharedMemoryKind { Anonymous, Named, None };

class SharedSegment;

// Which addresses of this process lie in shared segments.
class SegmentRegistry {
 public:
  // The segment that holds all of [address, address + bytes) of this process's own block, or null.
  const SharedSegment* find(const void* address, size_t bytes) const;

 private:
  friend class SharedSegment;
  std::map<const char*, const SharedSegment*> by_address_;
};

// One block of equal size per member, all mapped into this process. The destructor only unmaps:
// other members may go on using theirs.
class SharedSegment {
 public:
  // What one member tells the others; collects every member's text in member order. Collective.
  using Gather = std::function<std::vector<std::string>(const std::string&)>;

  // Collective over the members (job ranks, increasing). Zero filled. Throws OutOfMemoryError on
  // all members alike when one of them cannot get or map the memory.
  static std::shared_ptr<SharedSegment> create(SharedMemoryKind kind, size_t bytes, uint64_t id,
                                               std::vector<int> members, int me,
                                               const Gather& gather,
                                               std::shared_ptr<SegmentRegistry> registry);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  uint64_t id() const noexcept { return id_; }
  size_t bytes() const noexcept { return bytes_; }
  char* own() const noexcept { return blocks_[me_]; }
  const std::vector<int>& members() const noexcept { return members_; }
  char* block(int member) const noexcept { return blocks_[member]; }
  // Blocks of these job ranks in their order; empty when one of them is not a member.
  std::vector<char*> blocks_of(const std::vector<int>& job_ranks) const;

 private:
  SharedSegment() = default;

  uint64_t id_ = 0;
  size_t bytes_ = 0, mapped_bytes_ = 0;
  std::vector<int> members_;
  int me_ = 0;
  std::vector<char*> blocks_;
  std::shared_ptr<SegmentRegistry> registry_;
};

}  // namespace strata
