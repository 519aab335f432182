#include "core/config/ini.h"

#include <algorithm>
#include <cstdio>

#include "core/text.h"

namespace strata {
namespace ini_detail {

bool is_space(char c) { return c == ' ' || c == '\t'; }
bool is_comment_sign(char c) { return c == '#' || c == ';'; }

std::string hex_byte(unsigned char byte) {
  char text[8];
  std::snprintf(text, sizeof text, "0x%02x", byte);
  return text;
}

// Length of the UTF-8 sequence at text[at], 0 when there is none (overlong forms and surrogates
// included).
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const auto follows = [&](size_t i) { return at + i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return follows(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (!follows(1) || !follows(2)) return 0;
    if ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F)) return 0;
    return 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if ((lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

std::string_view without_comment(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_comment_sign(text[i]) && (i == 0 || is_space(text[i - 1]))) return text.substr(0, i);
  }
  return text;
}

IniLine bad(std::string what) { return {IniLine::Kind::Bad, {}, std::move(what)}; }

IniLine parse_section(std::string_view line) {
  const size_t close = line.find(']');
  if (close == std::string_view::npos) {
    return bad(
        cat("got ", shown_value(line), ", allowed: [section] (the closing bracket is missing)"));
  }
  if (!trim(without_comment(line.substr(close + 1))).empty()) {
    return bad(cat("got ", shown_value(line), ", allowed: nothing but a comment after [section]"));
  }
  const std::string_view name = trim(line.substr(1, close - 1));
  if (!valid_ini_name(name)) {
    return bad(cat("got section ", shown_value(name),
                   ", allowed: letters, digits, '_', '-', parts joined by '.'"));
  }
  return {IniLine::Kind::Section, std::string(name), {}};
}

// text begins with the opening quote.
IniLine parse_quoted(std::string_view key, std::string_view text) {
  std::string value;
  for (size_t i = 1; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      // A comment sign right after the quote is no part of the value either.
      if (!trim(without_comment(text.substr(i + 1))).empty()) {
        return bad(cat(key, ": got ", shown_value(text),
                       ", allowed: nothing but a comment after the closing quote"));
      }
      return {IniLine::Kind::Entry, std::string(key), std::move(value)};
    }
    if (c != '\\') {
      value += c;
      continue;
    }
    const char escaped = ++i < text.size() ? text[i] : '\0';
    if (escaped == '"' || escaped == '\\') {
      value += escaped;
    } else if (escaped == 'n') {
      value += '\n';
    } else if (escaped == 't') {
      value += '\t';
    } else {
      return bad(cat(key, ": got ", shown_value(text),
                     ", allowed after a backslash in quotes: \" \\ n t"));
    }
  }
  return bad(cat(key, ": got ", shown_value(text), ", allowed: a value with a closing quote"));
}

}  // namespace ini_detail

bool valid_ini_name(std::string_view name) {
  char previous = '.';
  for (const char c : name) {
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '_' || c == '-';
    if (!word && !(c == '.' && previous != '.')) return false;
    previous = c;
  }
  return previous != '.';
}

std::string text_fault(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte < 0x20 && byte != '\t') || byte == 0x7F) {
      return cat("control character ", ini_detail::hex_byte(byte));
    }
    const size_t length = ini_detail::utf8_length(text, i);
    if (length == 0) return cat("byte ", ini_detail::hex_byte(byte), " that is not UTF-8");
    i += length;
  }
  return {};
}

std::string shown_value(std::string_view value) {
  constexpr size_t kMost = 80;
  std::string out = "\"";
  for (size_t i = 0; i < value.size();) {
    if (out.size() > kMost) return out + "...\"";
    const auto byte = static_cast<unsigned char>(value[i]);
    const size_t length = ini_detail::utf8_length(value, i);
    if (length == 0 || byte < 0x20 || byte == 0x7F) {
      out += cat('<', ini_detail::hex_byte(byte), '>');
      ++i;
    } else {
      out += value.substr(i, length);
      i += length;
    }
  }
  return out + "\"";
}

IniLine parse_ini_line(std::string_view line) {
  using ini_detail::bad;
  if (const std::string fault = text_fault(line); !fault.empty()) {
    return bad(cat("got a line with ", fault, ", allowed: UTF-8 text"));
  }
  const std::string_view text = trim(line);
  if (text.empty() || ini_detail::is_comment_sign(text.front())) return {};
  if (text.front() == '[') return ini_detail::parse_section(text);
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) {
    return bad(cat("got ", shown_value(text), ", allowed: key = value, [section], # comment"));
  }
  const std::string_view key = trim(text.substr(0, equals));
  if (!valid_ini_name(key)) {
    return bad(cat("got key ", shown_value(key),
                   ", allowed: letters, digits, '_', '-', parts joined by '.'"));
  }
  const std::string_view after = text.substr(equals + 1);
  const std::string_view value = trim(after);
  if (!value.empty() && value.front() == '"') return ini_detail::parse_quoted(key, value);
  // A sign right after '=' belongs to the value; after white space it starts a comment.
  const std::string_view kept =
      !after.empty() && ini_detail::is_comment_sign(after.front())
          ? after.substr(0, 1 + ini_detail::without_comment(after.substr(1)).size())
          : ini_detail::without_comment(after);
  return {IniLine::Kind::Entry, std::string(key), std::string(trim(kept))};
}

bool parse_ini_list(std::string_view value, std::vector<std::string>& elements) {
  elements.clear();
  if (value.find_first_not_of(" \t") == std::string_view::npos) return true;
  std::string element;
  size_t kept = 0;  // length of the element without white space at its end
  for (size_t i = 0; i <= value.size(); ++i) {
    if (i == value.size() || value[i] == ',') {
      if (kept == 0) return false;
      elements.push_back(element.substr(0, kept));
      element.clear();
      kept = 0;
    } else if (value[i] == '\\' && i + 1 < value.size()) {
      element += value[++i];
      kept = element.size();
    } else if (!ini_detail::is_space(value[i])) {
      element += value[i];
      kept = element.size();
    } else if (!element.empty()) {
      element += value[i];
    }
  }
  return true;
}

std::string ini_value_text(std::string_view value) {
  const bool plain = !value.empty() && trim(value) == value && value.front() != '"' &&
                     value.find_first_of("#;\n\t") == std::string_view::npos;
  if (plain) return std::string(value);
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      out.append(1, '\\').append(1, c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string ini_list_text(const std::vector<std::string>& elements) {
  if (elements.empty()) return {};
  std::vector<std::string> parts;
  for (const std::string& element : elements) {
    std::string part;
    for (size_t i = 0; i < element.size(); ++i) {
      const bool outer = i == 0 || i + 1 == element.size();
      const char c = element[i];
      if (c == ',' || c == '\\' || (outer && ini_detail::is_space(c))) part += '\\';
      part += c;
    }
    parts.push_back(std::move(part));
  }
  return ini_value_text(join(parts));
}

}  // namespace strata
