#include "core/io/crc32c.h"

#include <array>
#include <cstdio>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace strata::io {
namespace crc32c_detail {

// All functions here work on the inner state: the caller inverts before and after.
constexpr uint32_t kPolynomial = 0x82F63B78u;  // 0x1EDC6F41 with its bits reversed
constexpr size_t kStream = 1024;               // bytes of each of the three interleaved streams

using Table = std::array<uint32_t, 256>;

// kStep[k][b]: state after byte b followed by k zero bytes, from state 0.
constexpr std::array<Table, 8> make_steps() {
  std::array<Table, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t state = b;
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1u) ? kPolynomial : 0u);
    tables[0][b] = state;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (uint32_t b = 0; b < 256; ++b) {
      const uint32_t before = tables[k - 1][b];
      tables[k][b] = (before >> 8) ^ tables[0][before & 0xFFu];
    }
  }
  return tables;
}
constexpr std::array<Table, 8> kStep = make_steps();

// The state is linear over GF(2), so appending kStream zero bytes is a matrix; kShift holds its
// action on each byte of the state. State after A B = shift(state after A) xor (state after B from
// 0).
constexpr std::array<Table, 4> make_shift() {
  std::array<uint32_t, 32> columns{};
  for (size_t bit = 0; bit < 32; ++bit) {
    uint32_t state = uint32_t{1} << bit;
    for (size_t i = 0; i < kStream; ++i) state = (state >> 8) ^ kStep[0][state & 0xFFu];
    columns[bit] = state;
  }
  std::array<Table, 4> tables{};
  for (size_t byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) {
      uint32_t sum = 0;
      for (size_t bit = 0; bit < 8; ++bit) {
        if ((value >> bit) & 1u) sum ^= columns[8 * byte + bit];
      }
      tables[byte][value] = sum;
    }
  }
  return tables;
}
constexpr std::array<Table, 4> kShift = make_shift();

inline uint32_t shift(uint32_t state) {
  return kShift[0][state & 0xFFu] ^ kShift[1][(state >> 8) & 0xFFu] ^
         kShift[2][(state >> 16) & 0xFFu] ^ kShift[3][state >> 24];
}

inline uint64_t load64(const unsigned char* p) {
  uint64_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

uint32_t by_table(const unsigned char* p, size_t bytes, uint32_t state) {
  for (; bytes >= 8; p += 8, bytes -= 8) {
    state ^= uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
    state = kStep[7][state & 0xFFu] ^ kStep[6][(state >> 8) & 0xFFu] ^
            kStep[5][(state >> 16) & 0xFFu] ^ kStep[4][state >> 24] ^ kStep[3][p[4]] ^
            kStep[2][p[5]] ^ kStep[1][p[6]] ^ kStep[0][p[7]];
  }
  for (; bytes > 0; ++p, --bytes) state = (state >> 8) ^ kStep[0][(state ^ *p) & 0xFFu];
  return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t by_instruction(const unsigned char* p, size_t bytes,
                                                          uint32_t state) {
  // The instruction takes three cycles but one starts every cycle: three independent streams keep
  // it busy.
  while (bytes >= 3 * kStream) {
    uint64_t a = state, b = 0, c = 0;
    for (size_t i = 0; i < kStream; i += 8) {
      a = _mm_crc32_u64(a, load64(p + i));
      b = _mm_crc32_u64(b, load64(p + kStream + i));
      c = _mm_crc32_u64(c, load64(p + 2 * kStream + i));
    }
    state = shift(shift(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^
            static_cast<uint32_t>(c);
    p += 3 * kStream;
    bytes -= 3 * kStream;
  }
  uint64_t wide = state;
  for (; bytes >= 8; p += 8, bytes -= 8) wide = _mm_crc32_u64(wide, load64(p));
  state = static_cast<uint32_t>(wide);
  for (; bytes > 0; ++p, --bytes) state = _mm_crc32_u8(state, *p);
  return state;
}
#endif

}  // namespace crc32c_detail

uint32_t crc32c_table(const void* data, size_t bytes, uint32_t previous) {
  return ~crc32c_detail::by_table(static_cast<const unsigned char*>(data), bytes, ~previous);
}

uint32_t crc32c(const void* data, size_t bytes, uint32_t previous) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) {
    return ~crc32c_detail::by_instruction(static_cast<const unsigned char*>(data), bytes,
                                          ~previous);
  }
#endif
  return crc32c_table(data, bytes, previous);
}

std::string crc_text(uint32_t crc) {
  char text[9];
  std::snprintf(text, sizeof(text), "%08x", crc);
  return text;
}

}  // namespace strata::io
