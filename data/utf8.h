#pragma once
// The little UTF-8 that tokenizers and file checks need.
#include <cstddef>
#include <string>
#include <string_view>

namespace strata::utf8 {

// Offset of the first byte that does not continue valid UTF-8 (overlong forms, surrogates and
// values beyond U+10FFFF are invalid), or std::string_view::npos.
size_t first_invalid(std::string_view text);
// Whether `rest`, which starts at an invalid byte, is the beginning of a code point that only lacks
// its last bytes.
bool is_cut_off(std::string_view rest);
// Code point at `pos`, which is moved behind it. An invalid byte reads as kInvalid and counts as
// one byte.
inline constexpr char32_t kInvalid = 0xFFFFFFFF;
char32_t next(std::string_view text, size_t& pos);
void append(std::string& out, char32_t code_point);
// First position at or after `pos` where a code point starts (or the end).
size_t boundary_after(std::string_view text, size_t pos);

}  // namespace strata::utf8
