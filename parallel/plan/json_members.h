#pragma once
// Reads a JSON text member by member and collects everything that is wrong with it, by name:
// "p.json: layers[2].t: got "x", allowed: integer from 1 to 65536". Internal to parallel/plan.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace strata {

class JsonProblems {
 public:
  explicit JsonProblems(std::string prefix) : prefix_(std::move(prefix)) {}
  const std::string& prefix() const { return prefix_; }
  void add(const std::string& key, const std::string& given, const std::string& allowed,
           const std::string& hint = {});
  std::vector<std::string> texts;
  bool unreadable = false;  // a value was replaced by its default: what depends on it means nothing

 private:
  std::string prefix_;  // "p.json: "
};

// A value as messages show it: scalars as written, containers by kind.
std::string shown_json(const nlohmann::json& value);

// Throws ConfigError with the place when the text is no JSON object; members that are there twice
// are problems.
nlohmann::json parse_json_object(std::string_view text, const std::string& name,
                                 JsonProblems& problems);

// The members of one object. null counts as absent.
class JsonMembers {
 public:
  // value: nullptr when the object is absent; every member then has its default.
  JsonMembers(const nlohmann::json* value, std::string path, JsonProblems& problems);

  std::string name(const std::string& key) const;
  const nlohmann::json* find(const std::string& key);  // nullptr: absent
  const nlohmann::json* needed(const std::string& key, const std::string& allowed);
  // An absent list is empty. The elements of lists of objects: JsonMembers again.
  std::vector<const nlohmann::json*> list(const std::string& key, const std::string& of);

  // Without a default the member has to be there. After a problem: the default, or `least`.
  int64_t integer(const std::string& key, int64_t least, int64_t most,
                  std::optional<int64_t> otherwise = std::nullopt);
  bool boolean(const std::string& key, bool otherwise);
  std::string text(const std::string& key);
  // The first choice is the default.
  std::string choice(const std::string& key, const std::vector<std::string>& choices,
                     const std::string& hint = {});

  // Members for people and other programs: known, not read.
  void notes(const std::vector<std::string>& keys);
  // Reports members that nobody asked for, unless they begin with "x-".
  void finish();

 private:
  void unusable(const std::string& key, const std::string& given, const std::string& allowed,
                const std::string& hint = {});

  const nlohmann::json* object_;
  std::string path_;
  JsonProblems& problems_;
  std::vector<std::string> known_;
  bool broken_ = false;  // there, but no object: said once
};

}  // namespace strata
