#include "core/config/reader.h"

#include <algorithm>
#include <fstream>

#include "core/config/ini.h"
#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace reader_detail {

constexpr std::string_view kUnset = "auto";
constexpr std::string_view kOverride = "--";
constexpr const char* kBool = "true, false";

// "optim.lr" -> "optim"; "" for a key without a section.
std::string section_of(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? std::string() : std::string(key.substr(0, dot));
}

std::string leaf_of(std::string_view key) {
  const size_t dot = key.rfind('.');
  return std::string(dot == std::string_view::npos ? key : key.substr(dot + 1));
}

bool within(std::string_view key, std::string_view section) {
  return key.size() > section.size() && key.starts_with(section) && key[section.size()] == '.';
}

std::string list_of(const std::string& element) {
  return cat("comma-separated list, each: ", element);
}

template <class T>
bool fits(const Allowed<T>& allowed, const T& value) {
  return !allowed.accepts || allowed.accepts(value);
}

// On failure `culprit` becomes the element that does not fit.
template <class T, class ParseElement>
bool parse_elements(const std::string& text, const Allowed<T>& allowed, std::vector<T>& out,
                    std::string& culprit, ParseElement parse) {
  std::vector<std::string> elements;
  if (!parse_ini_list(text, elements)) return false;
  for (const std::string& element : elements) {
    T value{};
    if (!parse(element, value) || !fits(allowed, value)) {
      culprit = element;
      return false;
    }
    out.push_back(std::move(value));
  }
  return true;
}

template <class T, class ParseValue>
bool parse_or_unset(const std::string& text, const Allowed<T>& allowed, std::optional<T>& out,
                    ParseValue parse) {
  if (text == kUnset) {
    out.reset();
    return true;
  }
  T value{};
  if (!parse(text, value) || !fits(allowed, value)) return false;
  out = value;
  return true;
}

bool is_number(const std::string& text) {
  int64_t integer = 0;
  double number = 0;
  return parse_integer(text, integer) || parse_number(text, number);
}

}  // namespace reader_detail

void ConfigReader::add_ini(std::string_view text, const std::string& name) {
  constexpr size_t kMostSyntaxProblems = 50;  // a file of another kind given by mistake
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::string section;
  bool in_section = false, skipping = false;
  size_t bad_lines = 0;
  int64_t number = 0;
  const auto syntax = [&](const std::string& where, const std::string& what) {
    if (++bad_lines <= kMostSyntaxProblems) problems_.push_back(cat(where, ": ", what));
  };
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const std::string where = cat(name, ':', ++number);
    IniLine parsed = parse_ini_line(line);
    if (parsed.kind == IniLine::Kind::Bad) {
      syntax(where, parsed.value);
      // Keys below a broken header belong to a section nobody can name: one problem, not one for
      // each.
      if (trim(line).starts_with('[')) skipping = true;
    } else if (parsed.kind == IniLine::Kind::Section) {
      section = parsed.name;
      in_section = true;
      skipping = false;
      headers_.emplace(section, where);
    } else if (parsed.kind == IniLine::Kind::Entry && !skipping) {
      if (!in_section) {
        syntax(where, cat(parsed.name,
                          ": got a key before any section, allowed: keys below a [section] line"));
        continue;
      }
      const std::string key = cat(section, '.', parsed.name);
      const auto [entry, added] = entries_.try_emplace(key, ConfigEntry{parsed.value, where});
      if (!added && !starts_with(entry->second.where, reader_detail::kOverride)) {
        syntax(where, cat(key, ": given twice, first at ", entry->second.where));
      }
    }
  }
  if (bad_lines > kMostSyntaxProblems) {
    problems_.push_back(cat(name, ": ", bad_lines - kMostSyntaxProblems,
                            " more lines of this kind; is this a run file?"));
  }
}

void ConfigReader::add_file(const std::string& path) {
  constexpr size_t kMostBytes = size_t{16} << 20;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char buffer[4096];
  while (file && text.size() <= kMostBytes) {
    file.read(buffer, sizeof buffer);
    text.append(buffer, static_cast<size_t>(file.gcount()));
  }
  if (!file.eof()) {
    const bool large = text.size() > kMostBytes;
    throw ConfigError(path, large ? "a file of more than 16 MiB" : "a file that cannot be read",
                      "a run file ([section] lines with key = value below)");
  }
  add_ini(text, path);
}

void ConfigReader::add_override(const std::string& key, const std::string& value) {
  const std::string where = cat(reader_detail::kOverride, key);
  if (!valid_ini_name(key) || reader_detail::section_of(key).empty()) {
    report(problem_text(cat("command line: ", shown_value(where)), "no section.key",
                        "--section.key=value"));
    return;
  }
  if (const std::string fault = text_fault(value); !fault.empty()) {
    report(problem_text(where, cat("a value with ", fault), "UTF-8 text"));
    return;
  }
  ConfigEntry& entry = entries_[key];
  if (starts_with(entry.where, reader_detail::kOverride)) {
    report(cat(where, ": given twice on the command line"));
  }
  entry = {value, where};
}

const std::string* ConfigReader::peek(const std::string& key) {
  known_.insert(key);
  if (std::string section = reader_detail::section_of(key); !section.empty()) {
    known_sections_.insert(std::move(section));
  }
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return nullptr;
  entry->second.used = true;
  return &entry->second.value;
}

std::string ConfigReader::full_key(std::string_view key) const {
  std::string out;
  for (const std::string& section : sections_) out.append(section).push_back('.');
  return out.append(key);
}

ConfigEntry* ConfigReader::find(std::string_view key) {
  const std::string full = full_key(key);
  known_.insert(full);
  const auto entry = entries_.find(full);
  if (entry == entries_.end()) return nullptr;
  entry->second.used = true;
  return &entry->second;
}

void ConfigReader::report(std::string problem) {
  if (std::find(problems_.begin(), problems_.end(), problem) == problems_.end()) {
    problems_.push_back(std::move(problem));
  }
}

void ConfigReader::report_missing(std::string_view key, const std::string& allowed) {
  report(problem_text(full_key(key), "nothing", allowed, "(this key has no default)"));
}

template <class T, class Parse>
void ConfigReader::read(std::string_view key, T& value, const std::string& allowed,
                        const std::vector<std::string>& choices, Parse parse) {
  const ConfigEntry* entry = find(key);
  if (entry == nullptr) return;
  T parsed{};
  std::string culprit = entry->value;
  if (parse(entry->value, parsed, culprit)) {
    value = std::move(parsed);
    return;
  }
  const bool number = !std::is_same_v<T, std::string> && reader_detail::is_number(culprit);
  std::string given = number ? culprit : shown_value(culprit);
  if (culprit != entry->value) given += cat(" in ", shown_value(entry->value));
  const std::string name = starts_with(entry->where, reader_detail::kOverride)
                               ? entry->where
                               : cat(entry->where, ": ", full_key(key));
  report(problem_text(name, given, allowed, did_you_mean(culprit, choices)));
}

void ConfigReader::field(std::string_view key, bool& value, std::string_view) {
  read(key, value, reader_detail::kBool, {},
       [](const std::string& text, bool& out, std::string&) { return parse_bool(text, out); });
}

void ConfigReader::field(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                         std::string_view) {
  read(key, value, allowed.text, {}, [&](const std::string& text, int64_t& out, std::string&) {
    return parse_integer(text, out) && reader_detail::fits(allowed, out);
  });
}

void ConfigReader::field(std::string_view key, double& value, const Allowed<double>& allowed,
                         std::string_view) {
  read(key, value, allowed.text, {}, [&](const std::string& text, double& out, std::string&) {
    return parse_number(text, out) && reader_detail::fits(allowed, out);
  });
}

void ConfigReader::field(std::string_view key, std::string& value,
                         const Allowed<std::string>& allowed, std::string_view) {
  read(key, value, allowed.text, allowed.choices,
       [&](const std::string& text, std::string& out, std::string&) {
         out = text;
         return reader_detail::fits(allowed, out);
       });
}

void ConfigReader::field(std::string_view key, std::vector<std::string>& value,
                         const Allowed<std::string>& allowed, std::string_view) {
  read(key, value, reader_detail::list_of(allowed.text), allowed.choices,
       [&](const std::string& text, std::vector<std::string>& out, std::string& culprit) {
         const auto copy = [](const std::string& element, std::string& item) {
           item = element;
           return true;
         };
         return reader_detail::parse_elements(text, allowed, out, culprit, copy);
       });
}

void ConfigReader::field(std::string_view key, std::vector<double>& value,
                         const Allowed<double>& allowed, std::string_view) {
  read(key, value, reader_detail::list_of(allowed.text), {},
       [&](const std::string& text, std::vector<double>& out, std::string& culprit) {
         return reader_detail::parse_elements(text, allowed, out, culprit, parse_number);
       });
}

void ConfigReader::field(std::string_view key, std::optional<int64_t>& value,
                         const Allowed<int64_t>& allowed, std::string_view, std::string_view) {
  read(key, value, cat(allowed.text, ", auto"), {},
       [&](const std::string& text, std::optional<int64_t>& out, std::string&) {
         return reader_detail::parse_or_unset(text, allowed, out, parse_integer);
       });
}

void ConfigReader::field(std::string_view key, std::optional<double>& value,
                         const Allowed<double>& allowed, std::string_view, std::string_view) {
  read(key, value, cat(allowed.text, ", auto"), {},
       [&](const std::string& text, std::optional<double>& out, std::string&) {
         return reader_detail::parse_or_unset(text, allowed, out, parse_number);
       });
}

void ConfigReader::required(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                            std::string_view help) {
  if (find(key) == nullptr) return report_missing(key, allowed.text);
  field(key, value, allowed, help);
}

void ConfigReader::required(std::string_view key, bool& value, std::string_view help) {
  if (find(key) == nullptr) return report_missing(key, reader_detail::kBool);
  field(key, value, help);
}

void ConfigReader::required(std::string_view key, std::string& value,
                            const Allowed<std::string>& allowed, std::string_view help) {
  if (find(key) == nullptr) return report_missing(key, allowed.text);
  field(key, value, allowed, help);
}

void ConfigReader::begin_section(std::string_view key, std::string_view) {
  known_sections_.insert(full_key(key));
  sections_.emplace_back(key);
}

void ConfigReader::end_section() {
  STRATA_CHECK(!sections_.empty(), "end_section without begin_section");
  sections_.pop_back();
}

void ConfigReader::problem(std::string_view key, const std::string& given,
                           const std::string& allowed, const std::string& hint) {
  std::string full = full_key(key);
  // visit() of one section may speak of a key of another by its full name.
  if (known_.count(full) == 0 && known_.count(std::string(key)) != 0) full = key;
  const auto entry = entries_.find(full);
  if (entry != entries_.end()) {
    const std::string& where = entry->second.where;
    full = starts_with(where, reader_detail::kOverride) ? where : cat(where, ": ", full);
  }
  report(problem_text(full, given, allowed, hint));
}

void ConfigReader::forbid(std::string_view key, const std::string& allowed) {
  if (const ConfigEntry* entry = find(key)) problem(key, shown_value(entry->value), allowed);
}

void ConfigReader::ignore(std::string_view key) {
  const std::string full = full_key(key);
  known_.insert(full);
  for (auto& [name, entry] : entries_) {
    if (name == full || reader_detail::within(name, full)) entry.used = true;
  }
}

// A section that nothing visited: one problem for it and all keys in it.
void ConfigReader::report_unknown_sections() {
  const std::vector<std::string> names(known_sections_.begin(), known_sections_.end());
  for (const auto& [section, where] : headers_) {
    // Known too: a prefix of dotted keys ("[model.rope_scaling]"), and what ignore() named as a
    // whole.
    bool known = known_sections_.count(section) != 0 || known_.count(section) != 0;
    for (const auto& [key, entry] : entries_) {
      known = known || (entry.used && reader_detail::within(key, section));
    }
    for (const std::string& key : known_) known = known || reader_detail::within(key, section);
    if (known) continue;
    const std::string hint = did_you_mean(section, names);
    report(cat(where, ": [", section, "]: unknown section.",
               hint.empty() ? cat(" Allowed: ", join(names)) : hint));
    for (auto& [key, entry] : entries_) {
      const bool from_file = !starts_with(entry.where, reader_detail::kOverride);
      if (from_file && reader_detail::within(key, section)) entry.used = true;
    }
  }
}

void ConfigReader::report_unknown_keys() {
  const std::vector<std::string> names(known_.begin(), known_.end());
  for (const auto& [key, entry] : entries_) {
    if (entry.used) continue;
    const std::string section = reader_detail::section_of(key), leaf = reader_detail::leaf_of(key);
    std::vector<std::string> siblings, elsewhere;
    for (const std::string& name : names) {
      if (reader_detail::section_of(name) == section) {
        siblings.push_back(reader_detail::leaf_of(name));
      }
      if (reader_detail::leaf_of(name) == leaf) elsewhere.push_back(name);
    }
    // The most likely mistakes first: a misspelt key of this section, a key of another section, a
    // misspelt section.
    std::string suggestion = nearest(leaf, siblings);
    if (!suggestion.empty()) suggestion = cat(section, '.', suggestion);
    if (suggestion.empty() && !elsewhere.empty()) {
      suggestion = nearest(key, elsewhere);
      if (suggestion.empty()) suggestion = elsewhere.front();
    }
    if (suggestion.empty()) suggestion = nearest(key, names);
    std::string text = starts_with(entry.where, reader_detail::kOverride)
                           ? entry.where
                           : cat(entry.where, ": ", key);
    text += ": unknown key.";
    constexpr size_t kMostListed = 20;
    if (!suggestion.empty()) {
      text += cat(" Did you mean \"", suggestion, "\"?");
    } else if (!siblings.empty()) {
      const bool many = siblings.size() > kMostListed;
      siblings.resize(std::min(siblings.size(), kMostListed));
      text += cat(" Allowed in [", section, "]: ", join(siblings), many ? ", ..." : "");
    }
    report(std::move(text));
  }
}

void ConfigReader::finish() {
  report_unknown_sections();
  report_unknown_keys();
  if (!problems_.empty()) throw ConfigError(problems_);
}

}  // namespace strata
