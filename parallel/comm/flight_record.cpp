#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <new>
#include <sstream>

#include "core/error.h"
#include "core/tensor.h"
#include "core/text.h"
#include "parallel/comm/flight_format.h"
#include "parallel/comm/op_log.h"
#include "parallel/comm/operation.h"

namespace strata {

namespace flight_record_detail {

struct Tables {
  struct Group {
    std::string name;
    std::vector<int> ranks;
  };
  std::map<uint32_t, Group> communicators;
  std::map<uint32_t, std::string> layers, phases;
};

Tables parse_tables(const std::string& text) {
  Tables tables;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    char kind = 0;
    uint32_t id = 0;
    if (!(words >> kind >> id)) continue;
    words.get();
    std::string rest;
    std::getline(words, rest);
    if (kind == 'L') tables.layers[id] = rest;
    if (kind == 'P') tables.phases[id] = rest;
    if (kind == 'C') {
      const size_t tab = rest.find('\t');
      Tables::Group group{rest.substr(0, tab), {}};
      if (tab != std::string::npos) {
        std::istringstream ranks(rest.substr(tab + 1));
        std::string rank;
        while (std::getline(ranks, rank, ',')) group.ranks.push_back(std::atoi(rank.c_str()));
      }
      tables.communicators[id] = std::move(group);
    }
  }
  return tables;
}

std::string lookup(const std::map<uint32_t, std::string>& names, uint32_t id,
                   const std::string& otherwise) {
  const auto found = names.find(id);
  return found == names.end() ? otherwise : found->second;
}

// At most sizeof(text) characters, whether or not the zero byte is there.
template <size_t N>
std::string fixed_text(const char (&text)[N]) {
  return std::string(text, strnlen(text, N));
}

std::string local_boot_id() {
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  std::string id;
  boot >> id;
  return id;
}

OpRecord convert(const flight::Record& r, const Tables& tables, int64_t now_ns) {
  OpRecord out;
  out.sequence = r.seq.load(std::memory_order_relaxed);
  const auto group = tables.communicators.find(r.comm);
  out.communicator =
      group == tables.communicators.end() ? cat("communicator ", r.comm) : group->second.name;
  if (group != tables.communicators.end()) out.members = group->second.ranks;
  const auto op = static_cast<CommOp>(r.op);
  out.op = comm_op_name(op);
  out.reduce = reduce_name(op, r.reduce);
  out.dtype = op == CommOp::Barrier || op == CommOp::Bytes || op == CommOp::Exchange
                  ? std::string()
                  : (r.dtype < static_cast<uint8_t>(at::ScalarType::NumOptions)
                         ? dtype_name(static_cast<at::ScalarType>(r.dtype))
                         : std::string("?"));
  const Site site{static_cast<uint16_t>(r.site >> 16), static_cast<SiteOp>(r.site & 0xffff)};
  out.site = site_text(site, lookup(tables.layers, site.layer, ""));
  out.phase = lookup(tables.phases, r.phase, "");
  out.count = r.count;
  out.bytes = r.bytes;
  out.signature = r.signature;
  out.peer = r.peer;
  out.receive = op == CommOp::Exchange && r.reduce == 1;
  out.step = static_cast<int64_t>(r.step) - 1;
  out.microbatch = static_cast<int>(r.microbatch) - 1;
  out.waiting = (r.flags.load(std::memory_order_relaxed) & flight::kFlagWaiting) != 0;
  out.done = r.done_ns.load(std::memory_order_relaxed) != 0;
  out.age_s = std::max(0.0, 1e-9 * static_cast<double>(now_ns - r.post_ns));
  return out;
}

}  // namespace flight_record_detail

std::filesystem::path flight_file(const std::filesystem::path& run_dir, int rank) {
  const std::string number = std::to_string(rank);
  return run_dir / "flight" /
         cat("rank-", std::string(number.size() < 5 ? 5 - number.size() : 0, '0'), number, ".fr");
}

FlightRecord read_flight_record(const std::filesystem::path& file) {
  namespace fd = flight_record_detail;
  std::ifstream in(file, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in.good() && bytes.empty())
    throw DataError(cat("flight record ", file.string(), " cannot be read"));
  const auto* header = reinterpret_cast<const flight::Header*>(bytes.data());
  if (bytes.size() != flight::kFileBytes ||
      std::memcmp(header->magic, flight::kMagic, sizeof(flight::kMagic)) != 0) {
    throw DataError(cat(file.string(), " is not a flight record (", bytes.size(),
                        " bytes, expected ", flight::kFileBytes, " that begin with STRATAFR)"));
  }
  if (header->version != flight::kVersion || header->record_bytes != sizeof(flight::Record)) {
    throw DataError(cat(file.string(), ": flight record of version ", header->version,
                        ", this program reads ", flight::kVersion));
  }
  constexpr int kMostRanks = 1 << 24;
  if (header->world < 1 || header->world > kMostRanks || header->rank < 0 ||
      header->rank >= header->world) {
    throw DataError(
        cat(file.string(), ": damaged flight record: rank ", header->rank, " of ", header->world));
  }
  FlightRecord out;
  out.rank = header->rank;
  out.world = header->world;
  out.pid = header->pid;
  out.host = fd::fixed_text(header->host);
  // Times of this machine's current boot are comparable with ours; for others the wall clock at
  // start has to do.
  int64_t now = flight::monotonic_ns();
  if (fd::fixed_text(header->boot) != fd::local_boot_id()) {
    const int64_t wall = std::chrono::duration_cast<std::chrono::nanoseconds>(
                             std::chrono::system_clock::now().time_since_epoch())
                             .count();
    now = header->start_monotonic_ns + (wall - header->start_wall_ns);
  }
  out.heartbeat_age_s = std::max(0.0, 1e-9 * static_cast<double>(now - header->beat_ns.load()));
  const size_t table_bytes = std::min<size_t>(header->table_bytes.load(), flight::kTableBytes);
  const fd::Tables tables = fd::parse_tables(bytes.substr(flight::kTableOffset, table_bytes));
  out.phase = fd::lookup(tables.phases, header->phase.load(), "");
  out.step = header->step.load();
  const auto* ring = reinterpret_cast<const flight::Record*>(bytes.data() + flight::kRingOffset);
  const uint64_t posted = header->posted.load();
  const uint64_t first = posted > flight::kRecords ? posted - flight::kRecords : 0;
  for (uint64_t i = first; i < posted; ++i) {
    const flight::Record& r = ring[i % flight::kRecords];
    if (r.seq.load(std::memory_order_relaxed) != 0)
      out.records.push_back(fd::convert(r, tables, now));
  }
  return out;
}

}  // namespace strata
