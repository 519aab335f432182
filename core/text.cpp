#include "core/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace strata {
namespace text_detail {

// Letters of either case and the two word separators count as the same character: "AdamW" is
// "adamw" and "clip-scope" is "clip_scope" to somebody who mistyped it.
char folded(char c) {
  if (c >= 'A' && c <= 'Z') return static_cast<char>(c - 'A' + 'a');
  return c == '-' ? '_' : c;
}

// Insertions, deletions, replacements and swaps of neighbours that turn a into b.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = folded(a[i - 1]) == folded(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
          folded(a[i - 2]) == folded(b[j - 1])) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string one_decimal(double value) {
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::fixed, 1);
  std::string out(buffer.data(), end.ptr);
  if (ends_with(out, ".0")) out.resize(out.size() - 2);
  return out;
}

std::string two_digits(int64_t value) { return (value < 10 ? "0" : "") + std::to_string(value); }

}  // namespace text_detail

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> out;
  size_t begin = 0;
  for (;;) {
    const size_t end = text.find(separator, begin);
    if (end == std::string_view::npos) {
      out.emplace_back(text.substr(begin));
      return out;
    }
    out.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix);
}

bool ends_with(std::string_view text, std::string_view suffix) { return text.ends_with(suffix); }

bool glob_match(std::string_view pattern, std::string_view text) {
  // On a mismatch the last '*' swallows one more character; earlier stars never need to be
  // revisited.
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::string nearest(std::string_view given, const std::vector<std::string>& known) {
  constexpr size_t kLongestName =
      200;  // longer input is no typing mistake, and the distance is quadratic
  if (given.empty() || given.size() > kLongestName) return {};
  std::string best;
  size_t best_distance = 0;
  for (const std::string& name : known) {
    const size_t longer = std::max(given.size(), name.size());
    const size_t shorter = std::min(given.size(), name.size());
    const size_t limit = std::max<size_t>(1, longer / 3);
    if (longer - shorter > limit) continue;
    const size_t distance = text_detail::edit_distance(given, name);
    if (distance > limit || distance >= shorter) continue;
    if (best.empty() || distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view given, const std::vector<std::string>& known) {
  const std::string name = nearest(given, known);
  return name.empty() ? std::string() : cat(" Did you mean \"", name, "\"?");
}

std::string bytes_text(double bytes) {
  if (!std::isfinite(bytes)) return number_text(bytes) + " B";
  if (bytes < 0) return "-" + bytes_text(-bytes);
  constexpr std::array<const char*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  // 1023.95 would be printed as 1024: that is one of the next unit.
  while (bytes >= 1023.95 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return text_detail::one_decimal(bytes) + " " + kUnits[unit];
}

std::string duration_text(double seconds) {
  using text_detail::one_decimal;
  using text_detail::two_digits;
  if (!std::isfinite(seconds) || std::abs(seconds) > 1e15) return number_text(seconds) + "s";
  if (seconds < 0) return "-" + duration_text(-seconds);
  if (seconds == 0) return "0s";
  if (seconds < 0.9995e-3) return one_decimal(seconds * 1e6) + "us";
  if (seconds < 0.9995) return one_decimal(seconds * 1e3) + "ms";
  if (seconds < 59.95) return one_decimal(seconds) + "s";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t minutes = whole / 60, hours = minutes / 60, days = hours / 24;
  if (hours == 0) return cat(minutes, 'm', two_digits(whole % 60), 's');
  if (days == 0) return cat(hours, 'h', two_digits(minutes % 60), 'm');
  return cat(days, 'd', two_digits(hours % 24), 'h');
}

std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 512> buffer;  // the longest fixed form has 309 digits before the point
  const auto shortest = [&](std::chars_format format) {
    return std::string(
        buffer.data(),
        std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, format).ptr);
  };
  const std::string scientific = shortest(std::chars_format::scientific);
  const double size = std::abs(value);
  const bool fixed_range = value == 0 || (size >= 1e-4 && size < 1e6);
  const std::string fixed = shortest(std::chars_format::fixed);
  return fixed_range || fixed.size() <= scientific.size() ? fixed : scientific;
}

}  // namespace strata
