#include "core/config/writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/config/ini.h"
#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace writer_detail {

using Json = nlohmann::ordered_json;

constexpr const char* kBool = "true, false";

struct Row {
  std::string key;    // within its section
  std::string ini;    // value as a run file spells it
  std::string shown;  // value as help shows it
  Json value;
  std::string type;
  std::string allowed;
  std::string help;
  bool required = false;
};

struct Section {
  std::string name;
  std::string help;
  std::vector<Row> rows;

  std::string full_key(const Row& row) const {
    return name.empty() ? row.key : cat(name, '.', row.key);
  }
};

// One line, whatever the help text contains.
std::string line(std::string_view text) {
  std::string out(trim(text));
  std::replace(out.begin(), out.end(), '\n', ' ');
  return out;
}

std::string padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

std::string markdown_cell(std::string_view text) {
  std::string out;
  for (const char c : line(text)) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string ini(const std::vector<Section>& sections) {
  std::string out;
  for (const Section& section : sections) {
    if (section.rows.empty()) continue;
    STRATA_CHECK(!section.name.empty(), "a run file cannot hold keys outside a section");
    out += cat(out.empty() ? "" : "\n", '[', section.name, "]\n");
    for (const Row& row : section.rows) {
      out += cat(row.key, " =", row.ini.empty() ? "" : " ", row.ini, '\n');
    }
  }
  return out;
}

std::string help(const std::vector<Section>& sections) {
  std::string out;
  for (const Section& section : sections) {
    if (section.rows.empty()) continue;
    size_t keys = 0, values = 0;
    for (const Row& row : section.rows) {
      keys = std::max(keys, section.full_key(row).size());
      values = std::max(values, row.shown.size());
    }
    values = std::min<size_t>(values, 24);
    out += cat(out.empty() ? "" : "\n", section.name, section.help.empty() ? "" : ": ",
               line(section.help), '\n');
    for (const Row& row : section.rows) {
      out += cat("  ", padded(section.full_key(row), keys), "  ", padded(row.shown, values), "  ",
                 line(row.help), " [", row.allowed, "]\n");
    }
  }
  return out;
}

std::string markdown(const std::vector<Section>& sections) {
  std::string out;
  for (const Section& section : sections) {
    if (section.rows.empty()) continue;
    out += cat(out.empty() ? "" : "\n", "## [", section.name, "]\n\n");
    if (!section.help.empty()) out += cat(line(section.help), "\n\n");
    out += "| key | default | allowed | meaning |\n|---|---|---|---|\n";
    for (const Row& row : section.rows) {
      out += cat("| `", row.key, "` | ", markdown_cell(row.shown), " | ",
                 markdown_cell(row.allowed), " | ", markdown_cell(row.help), " |\n");
    }
  }
  return out;
}

std::string json(const std::vector<Section>& sections) {
  Json out = Json::object();
  for (const Section& section : sections) {
    for (const Row& row : section.rows) {
      Json entry = {{"type", row.type},
                    {"default", row.value},
                    {"allowed", row.allowed},
                    {"help", line(row.help)}};
      if (row.required) entry["required"] = true;
      out[section.full_key(row)] = std::move(entry);
    }
  }
  return out.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

}  // namespace writer_detail

class ConfigWriter::Impl final : public ConfigVisitor {
 public:
  explicit Impl(ConfigFormat format) : format_(format) {}

  std::string text() const {
    switch (format_) {
      case ConfigFormat::Ini:
        return writer_detail::ini(sections_);
      case ConfigFormat::Help:
        return writer_detail::help(sections_);
      case ConfigFormat::Markdown:
        return writer_detail::markdown(sections_);
      case ConfigFormat::Json:
        return writer_detail::json(sections_);
    }
    return {};
  }

  void field(std::string_view key, bool& value, std::string_view help) override {
    put(key, value ? "true" : "false", value, "boolean", writer_detail::kBool, help);
  }
  void field(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
             std::string_view help) override {
    put(key, std::to_string(value), value, "integer", allowed.text, help);
  }
  void field(std::string_view key, double& value, const Allowed<double>& allowed,
             std::string_view help) override {
    put(key, number_text(value), value, "number", allowed.text, help);
  }
  void field(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
             std::string_view help) override {
    put(key, ini_value_text(value), value, "text", allowed.text, help);
  }
  void field(std::string_view key, std::vector<std::string>& value,
             const Allowed<std::string>& allowed, std::string_view help) override {
    put(key, ini_list_text(value), value, "list of text", cat("list of: ", allowed.text), help);
  }
  void field(std::string_view key, std::vector<double>& value, const Allowed<double>& allowed,
             std::string_view help) override {
    std::vector<std::string> numbers;
    for (const double number : value) numbers.push_back(number_text(number));
    put(key, join(numbers), value, "list of numbers", cat("list of: ", allowed.text), help);
  }
  void field(std::string_view key, std::optional<int64_t>& value, const Allowed<int64_t>& allowed,
             std::string_view unset, std::string_view help) override {
    put_optional(key, value ? std::to_string(*value) : "auto", value, "integer", allowed.text,
                 unset, help);
  }
  void field(std::string_view key, std::optional<double>& value, const Allowed<double>& allowed,
             std::string_view unset, std::string_view help) override {
    put_optional(key, value ? number_text(*value) : "auto", value, "number", allowed.text, unset,
                 help);
  }
  void required(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                std::string_view help) override {
    field(key, value, allowed, help);
    mark_required();
  }
  void required(std::string_view key, bool& value, std::string_view help) override {
    field(key, value, help);
    mark_required();
  }
  void required(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
                std::string_view help) override {
    field(key, value, allowed, help);
    mark_required();
  }

  void begin_section(std::string_view key, std::string_view help) override {
    path_.emplace_back(key);
    section(join(path_, ".")).help = help;
  }
  void end_section() override {
    STRATA_CHECK(!path_.empty(), "end_section without begin_section");
    path_.pop_back();
  }
  // A writer shows what is there; contradictions are the reader's to report.
  void problem(std::string_view, const std::string&, const std::string&,
               const std::string&) override {}

 private:
  writer_detail::Section& section(const std::string& name) {
    const auto found = std::find_if(sections_.begin(), sections_.end(),
                                    [&](const auto& s) { return s.name == name; });
    if (found != sections_.end()) return *found;
    return sections_.emplace_back(writer_detail::Section{name, {}, {}});
  }

  // The row of a key, new or from an earlier visit of the same section, which it replaces.
  writer_detail::Row& put(std::string_view key, std::string ini, writer_detail::Json value,
                          std::string type, std::string allowed, std::string_view help) {
    auto& rows = section(join(path_, ".")).rows;
    auto found =
        std::find_if(rows.begin(), rows.end(), [&](const auto& row) { return row.key == key; });
    if (found == rows.end()) found = rows.insert(rows.end(), writer_detail::Row{});
    std::string shown = ini.empty() ? "\"\"" : ini;
    *found = {std::string(key), std::move(ini),     std::move(shown),  std::move(value),
              std::move(type),  std::move(allowed), std::string(help), false};
    last_ = {join(path_, "."), found - rows.begin()};
    return *found;
  }

  template <class T>
  void put_optional(std::string_view key, std::string ini, const std::optional<T>& value,
                    std::string type, const std::string& allowed, std::string_view unset,
                    std::string_view help) {
    writer_detail::Json json = nullptr;
    if (value) json = *value;
    std::string all = cat(allowed, ", auto");
    if (!unset.empty()) all += cat(" (", unset, ")");
    put(key, std::move(ini), std::move(json), std::move(type), std::move(all), help);
  }

  void mark_required() {
    writer_detail::Row& row = section(last_.first).rows[static_cast<size_t>(last_.second)];
    row.required = true;
    row.shown = "required";
    row.value = nullptr;
  }

  ConfigFormat format_;
  std::vector<std::string> path_;
  std::vector<writer_detail::Section> sections_;
  std::pair<std::string, ptrdiff_t> last_;  // section and row written last
};

ConfigWriter::ConfigWriter(ConfigFormat format) : impl_(std::make_unique<Impl>(format)) {}
ConfigWriter::~ConfigWriter() = default;
ConfigVisitor& ConfigWriter::visitor() { return *impl_; }
std::string ConfigWriter::text() const { return impl_->text(); }

}  // namespace strata
