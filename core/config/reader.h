#pragma once
// Reads an INI run file plus "--section.key=value" overrides into config structs, and collects
// every problem of the whole input, so that a user sees all of them at once.
//
// Grammar: "[section]", "key = value", comments from '#' or ';' at the start of a line or after
// white space; a value may be quoted with "..." to keep '#', ';' or outer spaces (details:
// core/config/ini.h). Sections may be repeated, keys may not. Dotted sections ("[optim.aux]") and
// dotted keys are the same thing as nested sections. A section may be visited more than once; its
// problems are reported once. Numbers take suffixes: k, M, G (10^3..) and KiB, MiB, GiB for
// integers; s, m, h, d for times in seconds. Precedence: command line, file, default.
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/config/visitor.h"

namespace strata {

struct ConfigEntry {
  std::string value;
  std::string where;  // "run.ini:14" or "--optim.lr"
  bool used = false;
};

class ConfigReader final : public ConfigVisitor {
 public:
  ConfigReader() = default;

  // Parses INI text; `name` is shown in messages. Syntax problems are collected, not thrown.
  void add_ini(std::string_view text, const std::string& name);
  // Reads a file; throws ConfigError when it cannot be opened.
  void add_file(const std::string& path);
  // One override "section.key", wins over files.
  void add_override(const std::string& key, const std::string& value);

  // Value as given under the full key ("model.name"), or nullptr. Marks the key as used.
  const std::string* peek(const std::string& key);

  // Reports keys that no visit() asked for (with the nearest known key), then throws ConfigError
  // when anything was wrong. Call once, after everything has been visited.
  void finish();
  bool has_problems() const noexcept { return !problems_.empty(); }
  const std::vector<std::string>& problems() const noexcept { return problems_; }

  void field(std::string_view key, bool& value, std::string_view help) override;
  void field(std::string_view key, int64_t& value, const Allowed<int64_t>&,
             std::string_view help) override;
  void field(std::string_view key, double& value, const Allowed<double>&,
             std::string_view help) override;
  void field(std::string_view key, std::string& value, const Allowed<std::string>&,
             std::string_view help) override;
  void field(std::string_view key, std::vector<std::string>& value, const Allowed<std::string>&,
             std::string_view help) override;
  void field(std::string_view key, std::vector<double>& value, const Allowed<double>&,
             std::string_view help) override;
  void field(std::string_view key, std::optional<int64_t>& value, const Allowed<int64_t>&,
             std::string_view unset, std::string_view help) override;
  void field(std::string_view key, std::optional<double>& value, const Allowed<double>&,
             std::string_view unset, std::string_view help) override;
  void required(std::string_view key, int64_t& value, const Allowed<int64_t>&,
                std::string_view help) override;
  void required(std::string_view key, bool& value, std::string_view help) override;
  void required(std::string_view key, std::string& value, const Allowed<std::string>&,
                std::string_view help) override;
  void begin_section(std::string_view key, std::string_view help) override;
  void end_section() override;
  void problem(std::string_view key, const std::string& given, const std::string& allowed,
               const std::string& hint = {}) override;
  void ignore(std::string_view key) override;
  void forbid(std::string_view key, const std::string& allowed) override;

 private:
  ConfigEntry* find(std::string_view key);
  std::string full_key(std::string_view key) const;
  void report(std::string problem);  // once, however often a section is visited
  void report_missing(std::string_view key, const std::string& allowed);
  void report_unknown_sections();
  void report_unknown_keys();
  template <class T, class Parse>
  void read(std::string_view key, T& value, const std::string& allowed,
            const std::vector<std::string>& choices, Parse parse);

  std::map<std::string, ConfigEntry> entries_;
  std::map<std::string, std::string> headers_;  // section -> where its first "[section]" line is
  std::set<std::string> known_;                 // full keys visited, for suggestions
  std::set<std::string> known_sections_;        // and full section names
  std::vector<std::string> sections_;           // current nesting
  std::vector<std::string> problems_;
};

// Text to number with unit suffixes; false when it is not one.
bool parse_integer(std::string_view text, int64_t& value);
bool parse_number(std::string_view text, double& value);
bool parse_bool(std::string_view text, bool& value);  // true/false, on/off, yes/no, 1/0

}  // namespace strata
