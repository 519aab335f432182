#pragma once
// Bytes of a flight record file, shared by its writer (op_log.cpp) and reader (flight_record.cpp).
// Private to parallel/comm.
//
//   0        header, 4 KiB
//   4096     table, 60 KiB of text lines: "C <id> <name>\t<ranks>", "L <layer> <name>", "P <id>
//   <phase>" 65536    ring: 8192 records of 80 bytes
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace strata::flight {

inline constexpr char kMagic[8] = {'S', 'T', 'R', 'A', 'T', 'A', 'F', 'R'};
inline constexpr uint32_t kVersion = 1;
inline constexpr size_t kTableOffset = 4096, kTableBytes = 61440, kRingOffset = 65536;
inline constexpr uint64_t kRecords = 8192;
inline constexpr uint8_t kFlagWaiting = 1;

struct Header {
  char magic[8];
  uint32_t version;
  int32_t rank, world;
  uint32_t record_bytes;
  int64_t pid;
  char host[64];
  char boot[40];  // boot id: monotonic times of two files are comparable when it is equal
  int64_t start_monotonic_ns, start_wall_ns;
  std::atomic<uint32_t> table_bytes;
  std::atomic<uint64_t> posted;  // records so far
  // Heartbeat.
  std::atomic<int64_t> beat_ns, step;
  std::atomic<int32_t> microbatch, phase;
};
static_assert(sizeof(Header) <= kTableOffset);

struct Record {
  std::atomic<uint64_t> seq;  // stored last; 0 while the record is being written
  uint32_t comm;
  uint8_t op, dtype, reduce;
  std::atomic<uint8_t> flags;
  uint64_t count, bytes;
  int32_t peer;
  uint32_t step;
  uint16_t microbatch, phase;
  uint32_t site;  // layer << 16 | SiteOp
  uint64_t signature;
  int64_t post_ns;
  std::atomic<int64_t> start_ns, done_ns;  // start: its caller began to wait; 0: not yet
};
static_assert(sizeof(Record) == 80);
static_assert(std::atomic<uint64_t>::is_always_lock_free &&
              std::atomic<uint8_t>::is_always_lock_free);

inline constexpr size_t kFileBytes = kRingOffset + kRecords * sizeof(Record);

int64_t monotonic_ns();

}  // namespace strata::flight
