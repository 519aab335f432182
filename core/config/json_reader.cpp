#include "core/config/json_reader.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>
#include <utility>

#include "core/config/ini.h"
#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace json_reader_detail {

using Json = nlohmann::json;

// A value as messages show it: scalars as written, containers by kind (they may be large or deeply
// nested).
std::string shown(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  if (value.is_string()) return shown_value(value.get_ref<const std::string&>());
  return value.dump();
}

// "config.json:3, column 14" of byte number `byte`, counted from 1.
std::string place(const std::string& text, size_t byte, const std::string& name) {
  const size_t at = std::min(byte > 0 ? byte - 1 : 0, text.size());
  const auto begin = text.begin(), end = begin + static_cast<std::ptrdiff_t>(at);
  const size_t start = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
  const size_t column = start == std::string::npos ? at + 1 : at - start;
  return cat(name, ':', std::count(begin, end, '\n') + 1, ", column ", column);
}

std::string joined(const std::string& prefix, std::string_view key) {
  return prefix.empty() ? std::string(key) : cat(prefix, '.', key);
}

bool convert(const Json& json, bool& out) {
  if (!json.is_boolean()) return false;
  out = json.get<bool>();
  return true;
}

bool convert(const Json& json, int64_t& out) {
  if (json.is_number_unsigned()) {
    const auto value = json.get<uint64_t>();
    if (value > static_cast<uint64_t>(INT64_MAX)) return false;
    out = static_cast<int64_t>(value);
    return true;
  }
  if (json.is_number_integer()) {
    out = json.get<int64_t>();
    return true;
  }
  if (!json.is_number_float()) return false;
  const double value = json.get<double>();
  // 2^63 itself is no int64; the comparison is false for nan.
  if (!(value >= -0x1p63 && value < 0x1p63) || value != std::floor(value)) return false;
  out = static_cast<int64_t>(value);
  return true;
}

bool convert(const Json& json, double& out) {
  if (!json.is_number()) return false;
  out = json.get<double>();
  return std::isfinite(out);
}

bool convert(const Json& json, std::string& out) {
  if (!json.is_string()) return false;
  out = json.get<std::string>();
  return true;
}

template <class T>
bool read_value(const Json& json, const Allowed<T>& allowed, T& out) {
  return convert(json, out) && (!allowed.accepts || allowed.accepts(out));
}

template <class T>
bool read_value(const Json& json, const Allowed<T>& allowed, std::vector<T>& out) {
  if (!json.is_array()) return false;
  for (const Json& element : json) {
    T value{};
    if (!read_value(element, allowed, value)) return false;
    out.push_back(std::move(value));
  }
  return true;
}

template <class T>
bool read_value(const Json& json, const Allowed<T>& allowed, std::optional<T>& out) {
  return read_value(json, allowed, out.emplace());
}

}  // namespace json_reader_detail

class JsonConfigReader::Impl final : public ConfigVisitor {
  using Json = json_reader_detail::Json;

 public:
  Impl(const std::string& text, const std::string& name) : name_(name) {
    try {
      root_ = Json::parse(text);
    } catch (const Json::parse_error& error) {
      throw ConfigError(json_reader_detail::place(text, error.byte, name), "text that is no JSON",
                        "a JSON object");
    } catch (const Json::exception&) {
      throw ConfigError(name, "a number that no double can hold", "a JSON object");
    }
    if (!root_.is_object()) {
      throw ConfigError(name, json_reader_detail::shown(root_), "a JSON object");
    }
    path_.push_back({&root_, {}});
  }

  void field(std::string_view key, bool& value, std::string_view) override {
    read(key, value, Allowed<bool>{"true, false", {}}, "true, false");
  }
  void field(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
             std::string_view) override {
    read(key, value, allowed, allowed.text);
  }
  void field(std::string_view key, double& value, const Allowed<double>& allowed,
             std::string_view) override {
    read(key, value, allowed, allowed.text);
  }
  void field(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
             std::string_view) override {
    read(key, value, allowed, allowed.text);
  }
  void field(std::string_view key, std::vector<std::string>& value,
             const Allowed<std::string>& allowed, std::string_view) override {
    read(key, value, allowed, cat("list, each: ", allowed.text));
  }
  void field(std::string_view key, std::vector<double>& value, const Allowed<double>& allowed,
             std::string_view) override {
    read(key, value, allowed, cat("list, each: ", allowed.text));
  }
  void field(std::string_view key, std::optional<int64_t>& value, const Allowed<int64_t>& allowed,
             std::string_view, std::string_view) override {
    read(key, value, allowed, allowed.text);
  }
  void field(std::string_view key, std::optional<double>& value, const Allowed<double>& allowed,
             std::string_view, std::string_view) override {
    read(key, value, allowed, allowed.text);
  }
  void required(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                std::string_view help) override {
    if (find(key) == nullptr) return report_missing(key, allowed.text);
    field(key, value, allowed, help);
  }
  void required(std::string_view key, bool& value, std::string_view help) override {
    if (find(key) == nullptr) return report_missing(key, "true, false");
    field(key, value, help);
  }
  void required(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
                std::string_view help) override {
    if (find(key) == nullptr) return report_missing(key, allowed.text);
    field(key, value, allowed, help);
  }

  void begin_section(std::string_view key, std::string_view) override {
    const Json* inner = find(key);
    const std::string full = json_reader_detail::joined(path_.back().second, key);
    if (inner != nullptr && !inner->is_object()) {
      report(problem_text(full, json_reader_detail::shown(*inner), "an object"));
      inner = nullptr;
    }
    sections_.insert(full);
    path_.push_back({inner, full});
  }
  void end_section() override {
    STRATA_CHECK(path_.size() > 1, "end_section without begin_section");
    path_.pop_back();
  }
  void problem(std::string_view key, const std::string& given, const std::string& allowed,
               const std::string& hint) override {
    report(
        problem_text(json_reader_detail::joined(path_.back().second, key), given, allowed, hint));
  }
  void ignore(std::string_view key) override {
    used_.insert(json_reader_detail::joined(path_.back().second, key));
  }

  std::vector<std::string> unused() const {
    std::vector<std::string> out;
    collect_unused(root_, {}, out);
    return out;
  }

  void finish() const {
    if (!problems_.empty()) throw ConfigError(problems_);
  }

 private:
  // The value of a key of the current section and marks it used. nullptr: absent or null.
  // "optim.aux" is the member of that name or, without one, member "aux" of member "optim".
  const Json* find(std::string_view key) {
    const auto& [object, prefix] = path_.back();
    used_.insert(json_reader_detail::joined(prefix, key));
    if (object == nullptr) return nullptr;
    const Json* at = object;
    auto member = at->find(key);
    if (member != at->end()) return member->is_null() ? nullptr : &*member;
    std::string walked = prefix;
    const std::vector<std::string> parts = split(key, '.');
    for (size_t i = 0; i < parts.size(); ++i) {
      if (!at->is_object()) return nullptr;
      member = at->find(parts[i]);
      if (member == at->end() || member->is_null()) return nullptr;
      walked = json_reader_detail::joined(walked, parts[i]);
      if (i + 1 < parts.size()) sections_.insert(walked);
      at = &*member;
    }
    return at;
  }

  template <class Target, class T>
  void read(std::string_view key, Target& value, const Allowed<T>& allowed,
            const std::string& text) {
    const Json* json = find(key);
    if (json == nullptr) return;
    Target parsed{};
    if (json_reader_detail::read_value(*json, allowed, parsed)) {
      value = std::move(parsed);
      return;
    }
    std::string hint;
    if constexpr (std::is_same_v<Target, std::string>) {
      if (json->is_string()) {
        hint = did_you_mean(json->get_ref<const std::string&>(), allowed.choices);
      }
    }
    report(problem_text(json_reader_detail::joined(path_.back().second, key),
                        json_reader_detail::shown(*json), text, hint));
  }

  void report_missing(std::string_view key, const std::string& allowed) {
    report(problem_text(json_reader_detail::joined(path_.back().second, key), "nothing", allowed,
                        "(this key has no default)"));
  }

  // Each problem once, however often a section is visited.
  void report(const std::string& problem) {
    std::string text = cat(name_, ": ", problem);
    if (std::find(problems_.begin(), problems_.end(), text) == problems_.end()) {
      problems_.push_back(std::move(text));
    }
  }

  void collect_unused(const Json& object, const std::string& prefix,
                      std::vector<std::string>& out) const {
    for (const auto& [key, value] : object.items()) {
      const std::string full = json_reader_detail::joined(prefix, key);
      if (sections_.count(full) != 0 && value.is_object()) {
        collect_unused(value, full, out);
      } else if (used_.count(full) == 0) {
        out.push_back(full);
      }
    }
  }

  std::string name_;
  Json root_;
  std::vector<std::pair<const Json*, std::string>>
      path_;  // object (nullptr when absent) and its dotted name
  std::set<std::string> used_;
  std::set<std::string> sections_;
  std::vector<std::string> problems_;
};

JsonConfigReader::JsonConfigReader(const std::string& text, const std::string& name)
    : impl_(std::make_unique<Impl>(text, name)) {}
JsonConfigReader::~JsonConfigReader() = default;
ConfigVisitor& JsonConfigReader::visitor() { return *impl_; }
std::vector<std::string> JsonConfigReader::unused() const { return impl_->unused(); }
void JsonConfigReader::finish() { impl_->finish(); }

}  // namespace strata
