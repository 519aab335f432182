#include "core/io/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace strata::io {
namespace crc32c_test {

// One bit at a time, straight from the definition.
uint32_t by_bits(const std::vector<unsigned char>& data) {
  uint32_t state = 0xFFFFFFFFu;
  for (const unsigned char byte : data) {
    state ^= byte;
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1u) ? 0x82F63B78u : 0u);
  }
  return ~state;
}

std::vector<unsigned char> random_bytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<unsigned char> data(count);
  for (auto& byte : data) byte = static_cast<unsigned char>(random());
  return data;
}

TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string rising(32, ' ');
  for (size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<char>(i);
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
  EXPECT_EQ(crc32c_table("123456789", 9), 0xE3069283u);
  EXPECT_EQ(crc_text(0xE3069283u), "e3069283");
  EXPECT_EQ(crc_text(0x1fu), "0000001f");
}

TEST(Crc32c, AllPathsAgreeForAllLengthsAndAlignments) {
  const auto data = random_bytes(20000, 1);
  for (size_t length :
       {0, 1, 7, 8, 9, 63, 1023, 1024, 1025, 3071, 3072, 3073, 6143, 6144, 6145, 9999, 19990}) {
    for (size_t start : {0, 1, 3, 7}) {
      const std::vector<unsigned char> part(data.begin() + start, data.begin() + start + length);
      const uint32_t expected = by_bits(part);
      EXPECT_EQ(crc32c(data.data() + start, length), expected) << length << " at " << start;
      EXPECT_EQ(crc32c_table(data.data() + start, length), expected) << length << " at " << start;
    }
  }
}

TEST(Crc32c, ContinuesWhereItStopped) {
  const auto data = random_bytes(10000, 2);
  const uint32_t whole = crc32c(data.data(), data.size());
  std::mt19937 random(3);
  for (int trial = 0; trial < 100; ++trial) {
    const size_t cut = random() % (data.size() + 1);
    const uint32_t first = crc32c(data.data(), cut);
    EXPECT_EQ(crc32c(data.data() + cut, data.size() - cut, first), whole) << cut;
  }
}

TEST(Crc32c, SeesEveryFlippedBit) {
  auto data = random_bytes(4096, 4);
  const uint32_t before = crc32c(data.data(), data.size());
  for (size_t bit = 0; bit < data.size() * 8; bit += 7) {
    data[bit / 8] ^= static_cast<unsigned char>(1u << (bit % 8));
    EXPECT_NE(crc32c(data.data(), data.size()), before) << bit;
    data[bit / 8] ^= static_cast<unsigned char>(1u << (bit % 8));
  }
}

}  // namespace crc32c_test
}  // namespace strata::io
