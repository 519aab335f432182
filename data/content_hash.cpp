#include "data/content_hash.h"

#include <algorithm>
#include <vector>

#include "core/io/crc32c.h"
#include "core/rng.h"
#include "data/input_file.h"

namespace strata::datasets {
namespace content_hash_detail {

constexpr int64_t kBlock = int64_t{64} << 10;
constexpr int64_t kBlocks = 4096;

}  // namespace content_hash_detail

ContentHash& ContentHash::add(uint64_t value) {
  state_ = splitmix64(state_ ^ splitmix64(value));
  return *this;
}

ContentHash& ContentHash::add(std::string_view bytes) {
  add(bytes.size());
  for (size_t begin = 0; begin < bytes.size(); begin += content_hash_detail::kBlock) {
    add(io::crc32c(bytes.substr(begin, content_hash_detail::kBlock)));
  }
  return *this;
}

ContentHash& ContentHash::add(const InputFile& file) {
  using content_hash_detail::kBlock;
  using content_hash_detail::kBlocks;
  const int64_t size = file.size();
  add(static_cast<uint64_t>(size));
  std::vector<char> buffer(kBlock);
  const int64_t all = (size + kBlock - 1) / kBlock;
  const int64_t count = std::min(all, kBlocks);
  for (int64_t i = 0; i < count; ++i) {
    // Evenly spaced, the last one ending with the file.
    int64_t begin = i * kBlock;
    if (all > kBlocks)
      begin = static_cast<int64_t>(static_cast<double>(size - kBlock) * i / (kBlocks - 1));
    begin = std::min(begin, size);
    const int64_t bytes = std::min(kBlock, size - begin);
    file.read(begin, bytes, buffer.data());
    add(io::crc32c(buffer.data(), static_cast<size_t>(bytes)));
  }
  return *this;
}

std::string ContentHash::hex() const {
  static const char digits[] = "0123456789abcdef";
  std::string out(16, '0');
  for (int i = 0; i < 16; ++i) out[15 - i] = digits[(state_ >> (4 * i)) & 15];
  return out;
}

}  // namespace strata::datasets
