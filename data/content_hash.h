#pragma once
// 64-bit fingerprints of data. Not cryptographic: it tells data sets apart, it does not resist an
// attacker.
#include <cstdint>
#include <string>
#include <string_view>

namespace strata::datasets {

class InputFile;

class ContentHash {
 public:
  ContentHash& add(uint64_t value);
  ContentHash& add(std::string_view bytes);  // its length too
  // A whole file below 256 MiB; of a larger one its size, its first and last 64 KiB and 4094 evenly
  // spaced blocks of 64 KiB. Names do not count: a moved file is the same data.
  ContentHash& add(const InputFile& file);
  std::string hex() const;  // 16 hexadecimal digits

 private:
  uint64_t state_ = 0x5354524154414454u;
};

}  // namespace strata::datasets
