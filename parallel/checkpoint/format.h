#pragma once
// The JSON files of a checkpoint: manifest.json (commit record) and shard-NNNNN.json (piece table
// of one shard). Private to this folder. Text in, values out and back: pure functions; the files
// themselves are catalogue.h's business.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/nn/shard.h"

namespace strata::checkpoint_detail {

inline constexpr const char* kFormat = "strata-ckpt";
inline constexpr int kVersionMajor = 1, kVersionMinor = 0;
inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kWriterName =
    "writer.txt";  // in .tmp- directories: "<host> <pid> <start>"
inline constexpr int64_t kMaxManifestBytes = 16 << 20;

// One box of a logical tensor, contiguous in C order in its shard.
struct Piece {
  std::string path;  // "/model/<name>"
  at::ScalarType dtype = at::kFloat;
  Shape global;
  Box box;
  int64_t offset = 0, bytes = 0;  // in the shard file
  std::vector<uint32_t>
      crcs;  // one per block, counted from the piece's first byte; the last block may be short
};

struct Sidecar {
  std::string file;   // "shard-00007.h5"
  int64_t bytes = 0;  // size of the shard file
  int64_t block = 0;
  std::vector<Piece> pieces;
};
std::string write_sidecar(const Sidecar& sidecar);
// Throws CheckpointError; what it returns is consistent in itself: sizes match shapes, ranges lie
// inside the file.
Sidecar parse_sidecar(std::string_view text, const std::string& what);

struct ManifestFile {
  std::string name, kind;  // kind: shard, sidecar, config, plan
  int64_t bytes = 0;
  std::string crc;  // of the whole file; "" for shards
};

struct Manifest {
  int64_t step = 0, tokens = 0, samples = 0;
  std::string time_utc, run_id, parent, model_fingerprint, model_hash;
  std::map<std::string, std::string> writer;
  std::vector<ManifestFile> files;
  int64_t tensors_total = 0, elements_total = 0, bytes_total = 0;
  CheckpointState state;
  std::map<std::string, std::string> aliases;
};
std::string write_manifest(
    const Manifest& manifest);  // throws InternalError when a state value is not JSON
Manifest parse_manifest(std::string_view text, const std::string& what);

// "" when `path` can name a tensor: "/model/...", "/optim/...", "/state/..." or "/model_ema/...",
// at most 512 bytes, no '%',
// '@', control characters, empty, "." or ".." components. Else why not.
std::string why_bad_path(const std::string& path);
// [A-Za-z0-9._-]{1,64}, not starting with a dot.
bool is_file_name(std::string_view name);
std::string shard_name(int number);  // "shard-00007"
std::string dataset_name(const std::string& path,
                         int copy);   // of the copy-th box of a tensor in one shard: "path@1"
std::string step_name(int64_t step);  // "step-000000012000"
// Reverse of step_name; -1 for anything else.
int64_t parse_step_name(const std::string& name);
std::string utc_time(const char* format);  // strftime of now

// Bytes of a box; -1 when 64 bits do not suffice.
int64_t box_bytes(const Shape& extent, at::ScalarType dtype);

}  // namespace strata::checkpoint_detail
