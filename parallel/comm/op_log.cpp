#include "parallel/comm/op_log.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <mutex>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/flight_format.h"
#include "parallel/comm/operation.h"

namespace strata {

const char* comm_op_name(CommOp op) {
  switch (op) {
    case CommOp::AllReduce:
      return "all_reduce";
    case CommOp::AllGather:
      return "all_gather";
    case CommOp::ReduceScatter:
      return "reduce_scatter";
    case CommOp::AllToAll:
      return "all_to_all";
    case CommOp::Broadcast:
      return "broadcast";
    case CommOp::Exchange:
      return "exchange";
    case CommOp::Barrier:
      return "barrier";
    case CommOp::Bytes:
      return "bytes";
  }
  return "unknown";
}

namespace flight {

int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace flight

struct OpLog::Impl {
  void* base = MAP_FAILED;
  flight::Header* header = nullptr;
  flight::Record* ring = nullptr;
  std::mutex table_mutex;
  std::vector<std::string> layers;
  std::vector<std::string> phases;
  uint32_t communicators = 0;

  ~Impl() {
    if (base != MAP_FAILED) munmap(base, flight::kFileBytes);
  }

  flight::Record* find(uint64_t index) {
    const uint64_t newest = header->posted.load(std::memory_order_relaxed);
    if (index >= newest || newest - index > flight::kRecords)
      return nullptr;  // overwritten meanwhile
    return &ring[index % flight::kRecords];
  }

  // A full table loses names, never records.
  void add_line(const std::string& line) {
    const uint32_t used = header->table_bytes.load(std::memory_order_relaxed);
    if (used + line.size() > flight::kTableBytes) return;
    std::memcpy(static_cast<char*>(base) + flight::kTableOffset + used, line.data(), line.size());
    header->table_bytes.store(used + static_cast<uint32_t>(line.size()), std::memory_order_release);
  }
};

OpLog::OpLog(const std::filesystem::path& file, int rank, int world)
    : impl_(std::make_unique<Impl>()) {
  Impl& m = *impl_;
  if (file.empty()) {
    m.base = mmap(nullptr, flight::kFileBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    if (m.base == MAP_FAILED)
      throw StorageError(cat("flight record: no memory: ", std::strerror(errno)));
  } else {
    std::error_code ignored;
    if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path(), ignored);
    const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
      throw StorageError(cat("flight record ", file.string(), ": ", std::strerror(errno)));
    // Blocks are reserved now, so that a full disk is an error here and not a signal later.
    const int failure = posix_fallocate(fd, 0, flight::kFileBytes);
    if (failure == 0)
      m.base = mmap(nullptr, flight::kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const int map_failure = errno;
    close(fd);
    if (m.base == MAP_FAILED) {
      throw StorageError(cat("flight record ", file.string(), ", ", flight::kFileBytes,
                             " bytes: ", std::strerror(failure != 0 ? failure : map_failure)));
    }
  }
  m.header = new (m.base) flight::Header{};
  m.ring = reinterpret_cast<flight::Record*>(static_cast<char*>(m.base) + flight::kRingOffset);
  flight::Header& h = *m.header;
  h.version = flight::kVersion;
  h.rank = rank;
  h.world = world;
  h.record_bytes = sizeof(flight::Record);
  h.pid = getpid();
  gethostname(h.host, sizeof(h.host) - 1);
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  std::string id;
  if (boot >> id) std::memcpy(h.boot, id.data(), std::min(id.size(), sizeof(h.boot) - 1));
  h.start_monotonic_ns = flight::monotonic_ns();
  h.start_wall_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count();
  h.step.store(-1, std::memory_order_relaxed);
  set_phase("start", -1);
  std::atomic_thread_fence(std::memory_order_release);
  std::memcpy(h.magic, flight::kMagic, sizeof(h.magic));
}

OpLog::~OpLog() = default;

uint32_t OpLog::add_communicator(const std::string& name, const std::vector<int>& ranks) {
  const std::lock_guard<std::mutex> lock(impl_->table_mutex);
  const uint32_t id = impl_->communicators++;
  std::string line = cat("C ", id, " ", name, "\t");
  for (size_t i = 0; i < ranks.size(); ++i) line += (i > 0 ? "," : "") + std::to_string(ranks[i]);
  impl_->add_line(line + "\n");
  return id;
}

void OpLog::set_layer_names(const std::vector<std::string>& names) {
  const std::lock_guard<std::mutex> lock(impl_->table_mutex);
  impl_->layers = names;
  for (size_t i = 0; i < names.size(); ++i) impl_->add_line(cat("L ", i, " ", names[i], "\n"));
}

std::string OpLog::site_text(Site site) const {
  return strata::site_text(
      site, site.layer < impl_->layers.size() ? impl_->layers[site.layer] : std::string());
}

uint64_t OpLog::posted(const Start& start) {
  flight::Header& h = *impl_->header;
  const int64_t now = flight::monotonic_ns();
  const uint64_t index = h.posted.load(std::memory_order_relaxed);
  flight::Record& r = impl_->ring[index % flight::kRecords];
  r.seq.store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  r.comm = start.comm;
  r.op = static_cast<uint8_t>(start.op);
  r.dtype = start.dtype;
  r.reduce = start.reduce;
  r.flags.store(0, std::memory_order_relaxed);
  r.count = start.count;
  r.bytes = start.bytes;
  r.peer = start.peer;
  r.step = static_cast<uint32_t>(h.step.load(std::memory_order_relaxed) + 1);  // 0: no step yet
  r.microbatch = static_cast<uint16_t>(h.microbatch.load(std::memory_order_relaxed) + 1);
  r.phase = static_cast<uint16_t>(h.phase.load(std::memory_order_relaxed));
  r.site = static_cast<uint32_t>(start.site.layer) << 16 | static_cast<uint32_t>(start.site.op);
  r.signature = start.signature;
  r.post_ns = now;
  r.start_ns.store(0, std::memory_order_relaxed);
  r.done_ns.store(0, std::memory_order_relaxed);
  r.seq.store(start.sequence, std::memory_order_release);
  h.posted.store(index + 1, std::memory_order_release);
  h.beat_ns.store(now, std::memory_order_relaxed);
  return index;
}

void OpLog::waiting(uint64_t index) {
  flight::Record* r = impl_->find(index);
  if (!r || (r->flags.load(std::memory_order_relaxed) & flight::kFlagWaiting)) return;
  r->start_ns.store(flight::monotonic_ns(), std::memory_order_relaxed);
  r->flags.fetch_or(flight::kFlagWaiting, std::memory_order_release);
}

void OpLog::done(uint64_t index) {
  flight::Record* r = impl_->find(index);
  if (!r) return;
  int64_t not_yet = 0;
  r->done_ns.compare_exchange_strong(not_yet, flight::monotonic_ns(), std::memory_order_release);
}

void OpLog::set_phase(const char* phase, int64_t step, int microbatch) {
  flight::Header& h = *impl_->header;
  {
    const std::lock_guard<std::mutex> lock(impl_->table_mutex);
    auto& phases = impl_->phases;
    size_t id = 0;
    while (id < phases.size() && phases[id] != phase) ++id;
    if (id == phases.size()) {
      phases.emplace_back(phase);
      impl_->add_line(cat("P ", id, " ", phase, "\n"));
    }
    h.phase.store(static_cast<int32_t>(id), std::memory_order_relaxed);
  }
  h.step.store(step, std::memory_order_relaxed);
  h.microbatch.store(microbatch, std::memory_order_relaxed);
  h.beat_ns.store(flight::monotonic_ns(), std::memory_order_release);
}

}  // namespace strata
