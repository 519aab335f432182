#include "parallel/plan/json_members.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/config/ini.h"
#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace json_members_detail {

using Json = nlohmann::json;

std::optional<int64_t> whole_number(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (!(std::abs(number) <= 0x1p53) || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

std::string shown_key(const std::string& key) {
  return valid_ini_name(key) ? key : shown_value(key);
}

// "line 3, column 14" of byte number `byte`, counted from 1.
std::string place(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte > 0 ? byte - 1 : 0, text.size()));
  const size_t start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return cat("line ", std::count(before.begin(), before.end(), '\n') + 1, ", column ",
             before.size() - start + 1);
}

}  // namespace json_members_detail

void JsonProblems::add(const std::string& key, const std::string& given, const std::string& allowed,
                       const std::string& hint) {
  texts.push_back(prefix_ + problem_text(key, given, allowed, hint));
}

std::string shown_json(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  if (value.is_string()) return shown_value(value.get_ref<const std::string&>());
  return value.dump();
}

nlohmann::json parse_json_object(std::string_view text, const std::string& name,
                                 JsonProblems& problems) {
  using nlohmann::json;
  std::vector<std::set<std::string>> open;  // keys of the objects around the current place
  const auto note_keys = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open.back().insert(key).second) {
        problems.texts.push_back(
            cat(problems.prefix(), json_members_detail::shown_key(key), ": given twice"));
      }
    }
    return true;
  };
  json root;
  try {
    root = json::parse(text, note_keys);
  } catch (const json::parse_error& error) {
    throw ConfigError(cat(name, ", ", json_members_detail::place(text, error.byte)),
                      "text that is no JSON", "a JSON object");
  } catch (const json::exception&) {
    throw ConfigError(name, "a number that no double can hold", "a JSON object");
  }
  if (!root.is_object()) throw ConfigError(name, shown_json(root), "a JSON object");
  return root;
}

JsonMembers::JsonMembers(const nlohmann::json* value, std::string path, JsonProblems& problems)
    : object_(value), path_(std::move(path)), problems_(problems) {
  if (object_ == nullptr || object_->is_object()) return;
  unusable(path_, shown_json(*object_), "an object");
  object_ = nullptr;
  broken_ = true;
}

void JsonMembers::unusable(const std::string& key, const std::string& given,
                           const std::string& allowed, const std::string& hint) {
  problems_.add(key, given, allowed, hint);
  problems_.unreadable = true;
}

std::string JsonMembers::name(const std::string& key) const {
  return path_.empty() ? key : cat(path_, '.', key);
}

const nlohmann::json* JsonMembers::find(const std::string& key) {
  known_.push_back(key);
  if (object_ == nullptr) return nullptr;
  const auto member = object_->find(key);
  return member == object_->end() || member->is_null() ? nullptr : &*member;
}

const nlohmann::json* JsonMembers::needed(const std::string& key, const std::string& allowed) {
  const nlohmann::json* value = find(key);
  if (value == nullptr && !broken_) unusable(name(key), "nothing", allowed);
  return value;
}

std::vector<const nlohmann::json*> JsonMembers::list(const std::string& key,
                                                     const std::string& of) {
  std::vector<const nlohmann::json*> out;
  const nlohmann::json* value = find(key);
  if (value == nullptr) return out;
  if (!value->is_array()) {
    unusable(name(key), shown_json(*value), of);
    return out;
  }
  for (const auto& element : *value) out.push_back(&element);
  return out;
}

int64_t JsonMembers::integer(const std::string& key, int64_t least, int64_t most,
                             std::optional<int64_t> otherwise) {
  const std::string allowed = cat("integer from ", least, " to ", most);
  const nlohmann::json* value = otherwise ? find(key) : needed(key, allowed);
  if (value == nullptr) return otherwise.value_or(least);
  const auto number = json_members_detail::whole_number(*value);
  if (number && *number >= least && *number <= most) return *number;
  unusable(name(key), shown_json(*value), allowed);
  return otherwise.value_or(least);
}

bool JsonMembers::boolean(const std::string& key, bool otherwise) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  unusable(name(key), shown_json(*value), "true, false");
  return otherwise;
}

std::string JsonMembers::text(const std::string& key) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  unusable(name(key), shown_json(*value), "text");
  return {};
}

std::string JsonMembers::choice(const std::string& key, const std::vector<std::string>& choices,
                                const std::string& hint) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return choices.front();
  std::string near;
  if (value->is_string()) {
    auto given = value->get<std::string>();
    if (std::find(choices.begin(), choices.end(), given) != choices.end()) return given;
    near = did_you_mean(given, choices);
  }
  unusable(name(key), shown_json(*value), join(choices), near.empty() ? hint : near);
  return choices.front();
}

void JsonMembers::notes(const std::vector<std::string>& keys) {
  known_.insert(known_.end(), keys.begin(), keys.end());
}

void JsonMembers::finish() {
  if (object_ == nullptr) return;
  for (const auto& [key, value] : object_->items()) {
    if (starts_with(key, "x-")) continue;
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    const std::string near = did_you_mean(key, known_);
    problems_.texts.push_back(cat(problems_.prefix(), name(json_members_detail::shown_key(key)),
                                  ": unknown key.",
                                  near.empty() ? " Keys of other programs begin with x-" : near));
  }
}

}  // namespace strata
