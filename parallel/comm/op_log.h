#pragma once
// Flight record: one ring of 80-byte records per rank in a file mapped MAP_SHARED (its content
// survives SIGKILL), read by the watchdog of this or another rank and by `strata doctor RUN_DIR`.
// Format: reliability.md 5.1; 8192 records. Also the table of site names (layer numbers to layer
// names).
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/site.h"

namespace strata {

enum class CommOp : uint8_t {
  AllReduce,
  AllGather,
  ReduceScatter,
  AllToAll,
  Broadcast,
  Exchange,
  Barrier,
  Bytes
};
const char* comm_op_name(CommOp op);

class OpLog {
 public:
  // Creates (truncates) the file; throws StorageError. file empty: the ring lives in memory only.
  OpLog(const std::filesystem::path& file, int rank, int world);
  ~OpLog();

  uint32_t add_communicator(const std::string& name,
                            const std::vector<int>& ranks);  // returns its id
  void set_layer_names(const std::vector<std::string>& names);
  std::string site_text(Site site) const;  // "model.layers.7 region_exit"

  // For Exchange: peer = rank in the communicator, reduce = 0 sent, 1 received, sequence =
  // exchanges of this rank on this communicator, signature = bytes sent to or received from that
  // peer there so far, this operation included.
  struct Start {
    uint32_t comm;
    uint64_t sequence;
    CommOp op;
    uint8_t dtype, reduce;
    uint64_t count, bytes;
    int32_t peer;
    Site site;
    uint64_t signature;
  };
  uint64_t posted(const Start& start);  // returns the record's index for done()
  void waiting(uint64_t index);         // its caller is now blocked until it is done
  void done(uint64_t index);            // from any thread; again is harmless

  // Heartbeat: what this rank is doing, for reports ("step 12, forward").
  void set_phase(const char* phase, int64_t step, int microbatch = -1);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What a flight file says; used by the analyser and doctor.
struct OpRecord {
  uint64_t sequence = 0;
  std::string communicator, op, site, phase;
  std::vector<int> members;
  uint64_t count = 0, bytes = 0, signature = 0;
  std::string dtype, reduce;
  int peer = -1;         // root, or the other side of an exchange (rank in the communicator)
  bool receive = false;  // exchange: this rank receives
  int64_t step = -1;
  int microbatch = -1;
  bool waiting = true;  // false: posted, and its caller has not waited for it yet
  bool done = false;
  double age_s = 0;  // since it was posted
};
struct FlightRecord {
  int rank = 0, world = 1;
  int64_t pid = 0;
  std::string host, phase;
  int64_t step = -1;
  double heartbeat_age_s = 0;
  std::vector<OpRecord> records;  // oldest first
};
// <run_dir>/flight/rank-00003.fr, where the watchdog and doctor look for them.
std::filesystem::path flight_file(const std::filesystem::path& run_dir, int rank);
FlightRecord read_flight_record(
    const std::filesystem::path& file);  // throws DataError when it is not one

// "Who waits for whom" over all ranks' records. The first line is "culprit: rank 3", "culprits:
// ranks 0, 1 (...)" or "culprit: unknown (...)"; then why, with operation, layer and step; then
// what every rank was doing. A rank without a record counts as one that posted nothing. Pure.
std::string analyse_hang(const std::vector<FlightRecord>& ranks);

}  // namespace strata
