#pragma once
// The grammar of run files, one line at a time, and its inverse. Pure functions; ConfigReader and
// ConfigWriter use them.
//
//   [section]            # comment: '#' or ';' at the start of a line or after white space
//   key = value
//   key = "value"        inside quotes \" \\ \n \t are escapes
//
// Section and key names are letters, digits, '_' and '-', in parts separated by dots. Lines are
// UTF-8 without control characters other than tab. A list value is split at commas; a backslash
// takes the next character as it is.
#include <string>
#include <string_view>
#include <vector>

namespace strata {

struct IniLine {
  enum class Kind { Blank, Section, Entry, Bad };
  Kind kind = Kind::Blank;
  std::string name;   // section or key
  std::string value;  // of an Entry, without quotes; of Bad: what is wrong with the line
};

// `line` without its line end.
IniLine parse_ini_line(std::string_view line);

// Elements without outer white space; "" is the empty list. False when an element is empty.
bool parse_ini_list(std::string_view value, std::vector<std::string>& elements);

// Text that parse_ini_line / parse_ini_list read back as the same value.
std::string ini_value_text(std::string_view value);
std::string ini_list_text(const std::vector<std::string>& elements);

bool valid_ini_name(std::string_view name);
// "" when the text is UTF-8 without control characters (tab is fine), else what is wrong:
// "byte 0xff that is not UTF-8".
std::string text_fault(std::string_view text);
// A value as messages show it: in quotes, shortened, nothing unprintable.
std::string shown_value(std::string_view value);

}  // namespace strata
