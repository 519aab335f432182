#pragma once
// Writes one shard and its piece table. Private to this folder; not collective.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/assignment.h"
#include "parallel/checkpoint/format.h"

namespace strata::checkpoint_detail {

struct ShardJob {
  std::filesystem::path directory;
  int number = 0;  // of the shard
  int64_t step = 0, block = 0;
  bool hash = true;  // of the elements of /model
};

struct ShardResult {
  std::string file, sidecar;  // names
  int64_t file_bytes = 0, sidecar_bytes = 0;
  std::string sidecar_crc;
  uint64_t model_hash = 0;  // sum over the elements of /model written here
};

// data[i] belongs to offers[i]. Everything is on disk and synced when this returns. Throws
// StorageError.
ShardResult write_shard(const ShardJob& job, const std::vector<Offer>& offers,
                        const std::vector<Tensor>& data, const std::vector<Task>& tasks);

}  // namespace strata::checkpoint_detail
