#pragma once
// Small text helpers used in messages. (LibTorch ships a private copy of fmt whose version collides
// with the distribution's, so public headers use neither.)
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

// Concatenates anything that can be streamed: cat("rank ", 3, " of ", 4).
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// "a, b, c"
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");
std::vector<std::string> split(std::string_view text, char separator);  // keeps empty parts
std::string_view trim(std::string_view text);
bool starts_with(std::string_view text, std::string_view prefix);
bool ends_with(std::string_view text, std::string_view suffix);

// Shell-style match of a whole name: '*' any run, '?' one character. Used by optim.exclude, ckpt
// filters.
bool glob_match(std::string_view pattern, std::string_view text);

// Nearest of `known` to `given` by edit distance, or "" when nothing is near enough to be a typing
// mistake.
std::string nearest(std::string_view given, const std::vector<std::string>& known);
// " Did you mean \"muon\"?" or "".
std::string did_you_mean(std::string_view given, const std::vector<std::string>& known);

// 1536 -> "1.5 KiB"
std::string bytes_text(double bytes);
// 95.2 -> "1m35s"
std::string duration_text(double seconds);
// printf("%.*g")-style number with the fewest digits that read back equal.
std::string number_text(double value);

}  // namespace strata
