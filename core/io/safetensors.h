#pragma once
// safetensors files: u64 header length, JSON header, raw little-endian tensors in C order. Reads a
// single file, or a folder with model.safetensors or model.safetensors.index.json and its shards.
// Files are mapped, never copied whole.
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace strata::io {

struct SafetensorsEntry {
  at::ScalarType dtype;
  Shape shape;
};

class SafetensorsReader {
 public:
  // file or folder. Throws CheckpointError naming file, tensor and byte offset for anything
  // malformed: header length, JSON, duplicate or overlapping ranges, holes, sizes that do not match
  // shapes, shard names with a path in them.
  explicit SafetensorsReader(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;

  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const;
  const SafetensorsEntry& entry(
      const std::string& name) const;  // throws CheckpointError with the nearest name
  const std::map<std::string, std::string>& metadata() const;
  // A fresh CPU tensor owning its storage (dtype as stored).
  Tensor read(const std::string& name) const;
  // Rows [begin, end) of dimension 0 only; for reading a slice of a large matrix.
  Tensor read_rows(const std::string& name, int64_t begin, int64_t end) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes one file (atomically). Names sorted, header padded so that data start at a multiple of
// 4096.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace strata::io
