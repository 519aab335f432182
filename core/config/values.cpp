// Text to numbers: the three parse functions of core/config/reader.h.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/config/reader.h"
#include "core/text.h"

namespace strata {
namespace values_detail {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Suffix {
  std::string_view text;
  int64_t factor;
};

constexpr std::array<Suffix, 6> kCounts = {{
    {"KiB", int64_t{1} << 10},
    {"MiB", int64_t{1} << 20},
    {"GiB", int64_t{1} << 30},
    {"k", 1000},
    {"M", 1000000},
    {"G", 1000000000},
}};
constexpr std::array<Suffix, 4> kTimes = {{{"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}}};

// Removes a known suffix and the white space before it; 1 when there is none.
template <size_t N>
int64_t take_suffix(std::string_view& text, const std::array<Suffix, N>& known) {
  for (const Suffix& suffix : known) {
    if (!text.ends_with(suffix.text)) continue;
    text.remove_suffix(suffix.text.size());
    text = trim(text);
    return suffix.factor;
  }
  return 1;
}

// "[+-]digits[.digits][e[+-]digits]" as mantissa * 10^exponent with an exact mantissa.
struct Decimal {
  bool negative = false;
  __int128 mantissa = 0;
  int exponent = 0;
};

bool parse_decimal(std::string_view text, Decimal& out) {
  constexpr int kMostDigits = 30;  // keeps every product below within 128 bits
  size_t i = 0;
  if (i < text.size() && (text[i] == '+' || text[i] == '-')) out.negative = text[i++] == '-';
  int digits = 0, significant = 0;
  bool point = false;
  for (; i < text.size(); ++i) {
    if (text[i] == '.' && !point) {
      point = true;
      continue;
    }
    if (!is_digit(text[i])) break;
    ++digits;
    if (significant > 0 || text[i] != '0') ++significant;
    if (significant > kMostDigits) return false;
    out.mantissa = out.mantissa * 10 + (text[i] - '0');
    if (point) --out.exponent;
  }
  if (digits == 0) return false;
  if (i == text.size()) return true;
  if (text[i] != 'e' && text[i] != 'E') return false;
  std::string_view power = text.substr(i + 1);
  if (power.starts_with('+')) power.remove_prefix(1);
  if (power.empty() || !(is_digit(power.front()) || (power.size() > 1 && power.front() == '-'))) {
    return false;
  }
  int value = 0;
  const auto [end, fault] = std::from_chars(power.data(), power.data() + power.size(), value);
  if (fault != std::errc() || end != power.data() + power.size() || std::abs(value) > 100) {
    return false;
  }
  out.exponent += value;
  return true;
}

}  // namespace values_detail

bool parse_integer(std::string_view text, int64_t& value) {
  text = trim(text);
  const int64_t factor = values_detail::take_suffix(text, values_detail::kCounts);
  values_detail::Decimal decimal;
  if (!values_detail::parse_decimal(text, decimal)) return false;
  // Exact or nothing: 1.5k is 1500, 1.5 and 0.0001k are no integers.
  constexpr __int128 kLimit = static_cast<__int128>(std::numeric_limits<int64_t>::max()) + 1;
  __int128 number = decimal.mantissa;
  int exponent = decimal.exponent;
  if (number == 0) exponent = 0;
  while (exponent < 0 && number % 10 == 0) {
    number /= 10;
    ++exponent;
  }
  if (number >= kLimit * 1000000000) return false;
  number *= factor;
  for (; exponent < 0; ++exponent) {
    if (number % 10 != 0) return false;
    number /= 10;
  }
  for (; exponent > 0; --exponent) {
    if (number >= kLimit) return false;
    number *= 10;
  }
  if (decimal.negative) number = -number;
  if (number >= kLimit || number < -kLimit) return false;
  value = static_cast<int64_t>(number);
  return true;
}

bool parse_number(std::string_view text, double& value) {
  text = trim(text);
  const int64_t factor = values_detail::take_suffix(text, values_detail::kTimes);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  if (text.empty()) return false;
  double number = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (fault != std::errc() || end != text.data() + text.size()) return false;
  number *= static_cast<double>(factor);
  if (!std::isfinite(number)) return false;
  value = number;
  return true;
}

bool parse_bool(std::string_view text, bool& value) {
  std::string word(trim(text));
  std::transform(word.begin(), word.end(), word.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  for (const char* yes : {"true", "on", "yes", "1"}) {
    if (word == yes) return value = true;
  }
  for (const char* no : {"false", "off", "no", "0"}) {
    if (word == no) {
      value = false;
      return true;
    }
  }
  return false;
}

}  // namespace strata
