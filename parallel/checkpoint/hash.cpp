#include <algorithm>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/text.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/hash_text.h"

namespace strata {
namespace hash_detail {

// A 64-bit finaliser: every output bit depends on every input bit.
inline uint64_t mix64(uint64_t x) {
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  x ^= x >> 29;
  x *= 0xA0761D6478BD642Fu;
  return x ^ (x >> 32);
}

uint64_t text_hash(std::string_view text) {
  uint64_t state = mix64(0x9E3779B97F4A7C15u ^ text.size());
  for (size_t i = 0; i < text.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min<size_t>(8, text.size() - i));
    state = mix64(state ^ word) + 0x9E3779B97F4A7C15u;
  }
  return state;
}

template <class Word>
uint64_t run_hash(uint64_t name, uint64_t index, const void* data, int64_t count) {
  const char* bytes = static_cast<const char*>(data);
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, bytes + i * static_cast<int64_t>(sizeof(Word)), sizeof(Word));
    sum += mix64((index + static_cast<uint64_t>(i)) * 0x9E3779B97F4A7C15u ^
                 (name + static_cast<uint64_t>(word)));
  }
  return sum;
}

using RunHash = uint64_t (*)(uint64_t, uint64_t, const void*, int64_t);
RunHash run_hash_for(size_t width) {
  switch (width) {
    case 1:
      return run_hash<uint8_t>;
    case 2:
      return run_hash<uint16_t>;
    case 4:
      return run_hash<uint32_t>;
    case 8:
      return run_hash<uint64_t>;
    default:
      throw InternalError(cat("element_hash: elements of ", width, " bytes"));
  }
}

}  // namespace hash_detail

std::string checkpoint_detail::hash_text(uint64_t hash) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string model_fingerprint(std::vector<FingerprintEntry> parameters) {
  std::sort(parameters.begin(), parameters.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  std::string all;
  for (const FingerprintEntry& entry : parameters) {
    all += cat(entry.name, " ", shape_text(entry.shape), " ", shape_text(entry.segments), "\n");
  }
  return checkpoint_detail::hash_text(hash_detail::text_hash(all));
}

uint64_t element_hash(const std::string& path, const Shape& global, const Box& box,
                      const Tensor& data) {
  STRATA_CHECK(data.sizes() == at::IntArrayRef(box.extent) && box.offset.size() == global.size(),
               cat("element_hash: ", path, ": data ", shape_text(data.sizes()), " for a box of ",
                   shape_text(box.extent)));
  if (data.numel() == 0) return 0;
  const Tensor host = data.detach().cpu().contiguous();
  const uint64_t name = hash_detail::text_hash(path);
  const hash_detail::RunHash run_hash = hash_detail::run_hash_for(host.element_size());
  const auto* bytes = static_cast<const char*>(host.const_data_ptr());
  const size_t axes = global.size();
  // Rows of the box that are contiguous in the global tensor: axes from `outer` on.
  size_t outer = axes;
  int64_t run = 1;
  while (outer > 0) {
    --outer;
    run *= box.extent[outer];
    if (box.extent[outer] != global[outer]) break;
  }
  std::vector<int64_t> stride(axes);
  int64_t step = 1, index = 0;
  for (size_t i = axes; i-- > 0;) {
    stride[i] = step;
    step *= global[i];
    index += box.offset[i] * stride[i];
  }
  uint64_t sum = 0;
  std::vector<int64_t> position(outer, 0);
  for (;;) {
    sum += run_hash(name, static_cast<uint64_t>(index), bytes, run);
    bytes += run * static_cast<int64_t>(host.element_size());
    size_t axis = outer;
    for (;;) {
      if (axis == 0) return sum;
      --axis;
      index += stride[axis];
      if (++position[axis] < box.extent[axis]) break;
      index -= position[axis] * stride[axis];
      position[axis] = 0;
    }
  }
}

}  // namespace strata
