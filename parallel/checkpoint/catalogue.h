#pragma once
// Everything a checkpoint directory says about itself, read and checked: manifest, sidecars, file
// sizes, tiling, totals. Not the data blocks. Private to this folder.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "parallel/checkpoint/format.h"

namespace strata::checkpoint_detail {

struct StoredTensor {
  at::ScalarType dtype = at::kFloat;
  Shape shape;
  struct Part {
    size_t shard = 0;
    const Piece* piece = nullptr;  // in Catalogue::shards
  };
  std::vector<Part> parts;  // ordered by box
};

struct Catalogue {
  std::filesystem::path directory;
  Manifest manifest;
  std::vector<Sidecar> shards;
  std::map<std::string, StoredTensor> tensors;

  std::filesystem::path shard_path(size_t shard) const { return directory / shards[shard].file; }
};

// Throws CheckpointError: one sentence that starts with the directory or the file.
Catalogue load_catalogue(const std::filesystem::path& directory);

// Tensors of sidecars with their parts; checks that dtypes and shapes agree and that pieces tile
// every tensor. The result points into `shards`.
std::map<std::string, StoredTensor> index_tensors(const std::vector<Sidecar>& shards,
                                                  const std::string& what);

}  // namespace strata::checkpoint_detail
