#include "parallel/comm/mpi_shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <sstream>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace mpi_shared_memory_detail {

struct File {
  int fd = -1;
  std::string name;  // of a Named file, until it is unlinked

  ~File() {
    if (fd >= 0) close(fd);
    if (!name.empty()) shm_unlink(name.c_str());
  }
};

char* map(int fd, size_t bytes) {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return nullptr;
  madvise(address, bytes, MADV_HUGEPAGE);  // ignored where huge pages for shared memory are off
  return static_cast<char*>(address);
}

// Gets the pages now: a full machine is an error here and not a signal at some later store.
int populate(int fd, char* address, size_t bytes) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(address, bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno;
#endif
  return posix_fallocate(fd, 0, static_cast<off_t>(bytes));
}

int open_new(SharedMemoryKind kind, uint64_t key, File& file) {
  if (kind == SharedMemoryKind::Anonymous) {
    file.fd = memfd_create("strata", MFD_CLOEXEC);
  } else {
    const std::string name = cat("/strata-", getpid(), "-", key);
    file.fd = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file.fd >= 0) file.name = name;
  }
  return file.fd < 0 ? errno : 0;
}

// "<pid> <fd> <key>" or "<name> <key>", or "! <reason>"
std::string make_token(SharedMemoryKind kind, const File& file, uint64_t key) {
  return kind == SharedMemoryKind::Anonymous ? cat(getpid(), " ", file.fd, " ", key)
                                             : cat(file.name, " ", key);
}

// Maps what another process offers; null with the reason in `problem`. The key in the last page,
// which nobody else uses, proves that this is the memory meant, whatever else the path may lead to
// here.
char* map_token(SharedMemoryKind kind, const std::string& token, size_t bytes, size_t page,
                std::string& problem) {
  std::istringstream words(token);
  uint64_t key = 0;
  int fd = -1;
  if (kind == SharedMemoryKind::Anonymous) {
    long pid = 0, number = 0;
    words >> pid >> number >> key;
    fd = open(cat("/proc/", pid, "/fd/", number).c_str(), O_RDWR | O_CLOEXEC);
  } else {
    std::string name;
    words >> name >> key;
    fd = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0600);
  }
  if (fd < 0) {
    problem = cat("memory of another process cannot be opened: ", std::strerror(errno));
    return nullptr;
  }
  struct stat status {};
  char* address = nullptr;
  if (fstat(fd, &status) != 0 || status.st_size != static_cast<off_t>(bytes)) {
    problem = "memory of another process has an unexpected size";
  } else if (!(address = map(fd, bytes))) {
    problem = cat("memory of another process cannot be mapped: ", std::strerror(errno));
  } else {
    uint64_t found = 0;
    std::memcpy(&found, address + bytes - page, sizeof(found));
    if (found != key) {
      munmap(address, bytes);
      address = nullptr;
      problem = "memory of another process is not the one it offered";
    }
  }
  close(fd);
  return address;
}

}  // namespace mpi_shared_memory_detail

const SharedSegment* SegmentRegistry::find(const void* address, size_t bytes) const {
  const char* begin = static_cast<const char*>(address);
  auto next = by_address_.upper_bound(begin);
  if (next == by_address_.begin()) return nullptr;
  const auto& [base, segment] = *std::prev(next);
  return begin + bytes <= base + segment->bytes() ? segment : nullptr;
}

std::shared_ptr<SharedSegment> SharedSegment::create(SharedMemoryKind kind, size_t bytes,
                                                     uint64_t id, std::vector<int> members, int me,
                                                     const Gather& gather,
                                                     std::shared_ptr<SegmentRegistry> registry) {
  namespace sm = mpi_shared_memory_detail;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  bytes = (std::max<size_t>(bytes, 1) + page - 1) / page * page;
  const size_t mapped = bytes + page;

  std::shared_ptr<SharedSegment> segment(new SharedSegment);
  segment->id_ = id;
  segment->bytes_ = bytes;
  segment->mapped_bytes_ = mapped;
  segment->members_ = std::move(members);
  segment->me_ = me;
  segment->blocks_.assign(segment->members_.size(), nullptr);

  std::random_device entropy;
  const uint64_t key = (static_cast<uint64_t>(entropy()) << 32 | entropy()) | 1;
  sm::File file;
  std::string problem;
  if (const int error = sm::open_new(kind, key, file)) {
    problem = std::strerror(error);
  } else if (ftruncate(file.fd, static_cast<off_t>(mapped)) != 0 ||
             !(segment->blocks_[me] = sm::map(file.fd, mapped))) {
    problem = std::strerror(errno);
  } else if (const int error = sm::populate(file.fd, segment->own(), mapped)) {
    problem = std::strerror(error);
  } else {
    std::memcpy(segment->own() + bytes, &key, sizeof(key));
  }

  const std::vector<std::string> tokens =
      gather(problem.empty() ? sm::make_token(kind, file, key) : "! " + problem);
  problem.clear();
  for (size_t r = 0; r < tokens.size() && problem.empty(); ++r) {
    if (starts_with(tokens[r], "! ")) {
      problem = tokens[r].substr(2);
    } else if (static_cast<int>(r) != me) {
      segment->blocks_[r] = sm::map_token(kind, tokens[r], mapped, page, problem);
    }
  }
  for (const std::string& answer : gather(problem)) {
    if (problem.empty()) problem = answer;
  }
  if (!problem.empty()) {
    throw OutOfMemoryError(
        cat("shared memory of ", bytes_text(static_cast<double>(bytes)), " per process: ", problem,
            ". Free memory (or enlarge /dev/shm) on this node, or use fewer ranks"));
  }
  segment->registry_ = std::move(registry);
  segment->registry_->by_address_[segment->own()] = segment.get();
  return segment;
}

SharedSegment::~SharedSegment() {
  if (registry_) registry_->by_address_.erase(own());
  for (char* block : blocks_) {
    if (block) munmap(block, mapped_bytes_);
  }
}

std::vector<char*> SharedSegment::blocks_of(const std::vector<int>& job_ranks) const {
  if (job_ranks == members_) return blocks_;
  std::vector<char*> blocks;
  for (const int rank : job_ranks) {
    const auto found = std::lower_bound(members_.begin(), members_.end(), rank);
    if (found == members_.end() || *found != rank) return {};
    blocks.push_back(blocks_[found - members_.begin()]);
  }
  return blocks;
}

}  // namespace strata
