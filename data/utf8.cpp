#include "data/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace strata::utf8 {
namespace utf8_detail {

inline bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes of a code point by its first byte; 0: none starts with it.
inline size_t length_of(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first >= 0xE0 && first <= 0xEF) return 3;
  if (first >= 0xF0 && first <= 0xF4) return 4;
  return 0;
}

// The second byte excludes overlong forms, surrogates and values beyond U+10FFFF.
inline bool second_fits(unsigned char first, unsigned char second) {
  switch (first) {
    case 0xE0:
      return second >= 0xA0;
    case 0xED:
      return second <= 0x9F;
    case 0xF0:
      return second >= 0x90;
    case 0xF4:
      return second <= 0x8F;
    default:
      return true;
  }
}

// Bytes of the valid code point at the start of `text`, 0 when there is none.
size_t valid_length(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const size_t length = length_of(first);
  if (length <= 1) return length;
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!continues(text[i])) return 0;
  }
  return second_fits(first, static_cast<unsigned char>(text[1])) ? length : 0;
}

}  // namespace utf8_detail

size_t first_invalid(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    if (text.size() - pos >= 8) {  // ASCII, eight bytes at a time
      uint64_t word = 0;
      std::memcpy(&word, text.data() + pos, 8);
      if ((word & 0x8080808080808080u) == 0) {
        pos += 8;
        continue;
      }
    }
    const size_t length = utf8_detail::valid_length(text.substr(pos, 4));
    if (length == 0) return pos;
    pos += length;
  }
  return std::string_view::npos;
}

bool is_cut_off(std::string_view rest) {
  if (rest.empty()) return false;
  const auto first = static_cast<unsigned char>(rest[0]);
  const size_t length = utf8_detail::length_of(first);
  if (rest.size() >= length) return false;
  for (size_t i = 1; i < rest.size(); ++i) {
    if (!utf8_detail::continues(rest[i])) return false;
  }
  return rest.size() < 2 || utf8_detail::second_fits(first, static_cast<unsigned char>(rest[1]));
}

char32_t next(std::string_view text, size_t& pos) {
  const auto first = static_cast<unsigned char>(text[pos]);
  const size_t length = first < 0x80 ? 1 : utf8_detail::valid_length(text.substr(pos, 4));
  if (length == 0) {
    ++pos;
    return kInvalid;
  }
  char32_t out = length == 1 ? first : first & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i)
    out = (out << 6) | (static_cast<unsigned char>(text[pos + i]) & 0x3Fu);
  pos += length;
  return out;
}

void append(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) {
    out += static_cast<char>(static_cast<unsigned char>(byte));
  };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t boundary_after(std::string_view text, size_t pos) {
  pos = std::min(pos, text.size());
  // At most three bytes continue a code point; more than that is no UTF-8 and any place is as good.
  for (int i = 0; i < 3 && pos < text.size() && utf8_detail::continues(text[pos]); ++i) ++pos;
  return pos;
}

}  // namespace strata::utf8
