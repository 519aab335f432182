#pragma once
// The header of a safetensors file by itself: a pure function of the file's bytes, so that it can
// be tested with any input.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "core/tensor.h"

namespace strata::io {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsHeader {
  struct Entry {
    at::ScalarType dtype;
    Shape shape;
    uint64_t begin = 0, end = 0;  // relative to data_start
  };
  std::map<std::string, Entry> tensors;
  std::map<std::string, std::string> metadata;
  uint64_t data_start = 0;
};

// file: the whole file (only the header's bytes are touched). Throws CheckpointError naming `path`,
// tensor and byte offset. What it returns is safe: every range lies inside the file, ranges tile
// the data section, sizes match shapes.
SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& path);

// "BF16"; empty for types the format has not.
std::optional<std::string> safetensors_dtype_name(at::ScalarType dtype);

// In double quotes, control characters escaped, at most 200 bytes.
std::string quoted_name(std::string_view name);

}  // namespace strata::io
