#pragma once
// CRC32C (Castagnoli, reflected, init and xorout all ones): "123456789" -> 0xE3069283.
// SSE4.2 instruction where there is one, three streams interleaved; table otherwise.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace strata::io {

uint32_t crc32c(const void* data, size_t bytes,
                uint32_t previous = 0);  // previous: result of the bytes before
inline uint32_t crc32c(std::string_view text) { return crc32c(text.data(), text.size()); }
// The table form by itself: for processors without the instruction, and the reference of the tests.
uint32_t crc32c_table(const void* data, size_t bytes, uint32_t previous = 0);
std::string crc_text(uint32_t crc);  // 8 lower-case hexadecimal digits

}  // namespace strata::io
