#pragma once
// Checkpoints of logically global tensors (checkpoint.md 4-9): any layout reads what any other
// wrote.
//
//   <root>/LATEST, <root>/step-000000012000/{manifest.json, shard-NNNNN.h5, shard-NNNNN.json,
//   index.h5, config.ini, plan.json}; uncommitted work in step-N.tmp-<nonce>, quarantined
//   directories step-N.bad-<time>.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/communicator.h"
#include "parallel/nn/shard.h"

namespace strata {

// Scalars of a run, stored in the manifest's `state`. Values are JSON texts ("12", "\"abc\"", "[1,
// 2]").
using CheckpointState = std::map<std::string, std::string>;

struct SaveRequest {
  std::filesystem::path root;  // <run>/checkpoints
  int64_t step = 0, tokens = 0, samples = 0;
  std::string run_id, parent;     // parent: directory name this run resumed from, or ""
  std::string model_fingerprint;  // model_fingerprint() of the spec's metas
  CheckpointState state;
  std::map<std::string, std::string> aliases;  // tied tensors: alias -> owner
  int64_t block_bytes = 4 << 20;               // CRC granularity
  bool hash = true;  // manifest carries the order-independent hash of /model (checkpoint.md 9.4)
};

class CheckpointWriter {
 public:
  // Collective over `job`. Rank 0 creates the .tmp- directory.
  CheckpointWriter(Communicator& job, SaveRequest request);
  ~CheckpointWriter();

  // Offers the elements of `box` of the logical tensor `path` ("/model/<name>", "/optim/<name>/m",
  // "/state/<name>"). data: CPU or device tensor with the box's extent. Several ranks may offer the
  // same box: the least loaded writes it. `data` is kept until commit(); its values must not change
  // before.
  void add(const std::string& path, const Shape& global, const Box& box, const Tensor& data);
  void add_file(const std::string& name,
                const std::string& text);  // "config.ini", "plan.json"; rank 0's is used

  // Collective: writes, syncs, renames, prunes nothing. Returns the committed directory. A failure
  // on any rank is found by all: StorageError on every rank, the temporary directory removed, older
  // checkpoints untouched. Boxes of each tensor must tile it exactly (InternalError).
  std::filesystem::path commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct TensorInfo {
  at::ScalarType dtype;
  Shape shape;
};

class CheckpointReader {
 public:
  // Reads and checks manifest and sidecars (not the data blocks). Not collective. Throws
  // CheckpointError.
  explicit CheckpointReader(const std::filesystem::path& directory);
  ~CheckpointReader();

  int64_t step() const;
  int64_t tokens() const;
  int64_t samples() const;
  const std::string& model_fingerprint() const;
  const CheckpointState& state() const;
  const std::map<std::string, std::string>& aliases() const;
  const std::map<std::string, TensorInfo>& tensors() const;  // by path
  bool contains(const std::string& path) const;
  std::string file_text(const std::string& name) const;  // "config.ini"
  std::string model_hash() const;                        // "" when not stored

  // Elements of `box` as a CPU tensor in the stored dtype. Every block touched is checked against
  // its CRC: a mismatch throws CheckpointError naming file, tensor and byte range.
  Tensor read(const std::string& path, const Box& box) const;
  Tensor read_whole(const std::string& path) const;

  // All blocks of all shards. Returns one sentence per damaged block; empty: all good.
  std::vector<std::string> verify_blocks() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "" when the directory is a committed checkpoint whose manifest, file sizes and sidecars agree,
// else why not.
std::string why_invalid(const std::filesystem::path& directory);

// Newest valid checkpoint below root, for ckpt.resume = auto; each invalid one newer than it is
// reported through `warn`. Not collective: rank 0 decides and broadcasts the name.
std::optional<std::filesystem::path> find_latest(
    const std::filesystem::path& root, const std::function<void(const std::string&)>& warn);
// Renames a damaged checkpoint to <name>.bad-<time>; returns the new path.
std::filesystem::path quarantine(const std::filesystem::path& directory);
// Deletes all but the newest keep_last valid ones (never fewer than two), those whose step is a
// multiple of keep_every (0: none), and `keep`. Damaged ones newer than those are left alone.
// Failures are notes, not errors.
void prune(const std::filesystem::path& root, int keep_last, int64_t keep_every,
           const std::filesystem::path& keep, const std::function<void(const std::string&)>& note);
// Removes step-*.tmp-* whose writer is gone (host and pid file inside); live ones are left and
// reported.
void remove_leftovers(const std::filesystem::path& root,
                      const std::function<void(const std::string&)>& warn);

// 64-bit hash over sorted (name, shape, dtype, segments), 16 hexadecimal digits.
struct FingerprintEntry {
  std::string name;
  Shape shape;
  std::vector<int64_t> segments;
};
std::string model_fingerprint(std::vector<FingerprintEntry> parameters);

// Order-independent hash of elements (checkpoint.md 9.4): sums over any sharding to the same value.
uint64_t element_hash(const std::string& path, const Shape& global, const Box& box,
                      const Tensor& data);

}  // namespace strata
