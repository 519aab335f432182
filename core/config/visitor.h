#pragma once
// One description of the configuration from which reading, validation, --help, docs/config.md and
// the resolved run file all come: each config struct has one visit(ConfigVisitor&) that lists key,
// range and help once.
//
//   void OptimConfig::visit(ConfigVisitor& v) {
//     v.field("name", name, one_of({"adamw", "sgd"}), "update rule");
//     v.field("lr", lr, positive(), "peak learning rate");
//   }
//
// Implementations: ConfigReader (core/config/reader.h), ConfigWriter (core/config/writer.h),
// JsonConfigReader (core/config/json_reader.h). The value a field holds when it is visited is its
// default.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

template <class T>
struct Allowed {
  std::string text;  // shown in errors and help: "number in (0, 1]"
  std::function<bool(const T&)> accepts;
  std::vector<std::string> choices = {};  // for "Did you mean"; only for texts
};

Allowed<int64_t> any_integer();
Allowed<int64_t> at_least(int64_t least);
Allowed<int64_t> between(int64_t least, int64_t most);
Allowed<double> any_number();
Allowed<double> positive();
Allowed<double> non_negative();
Allowed<double> number_between(double least, double most);  // [least, most]
Allowed<double> fraction_below_one();                       // [0, 1)
Allowed<std::string> any_text();
Allowed<std::string> one_of(std::vector<std::string> choices);
Allowed<std::string> path_text();  // any text, shown as "path"

class ConfigVisitor {
 public:
  virtual ~ConfigVisitor() = default;
  virtual void field(std::string_view key, bool& value, std::string_view help) = 0;
  virtual void field(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                     std::string_view help) = 0;
  virtual void field(std::string_view key, double& value, const Allowed<double>& allowed,
                     std::string_view help) = 0;
  virtual void field(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
                     std::string_view help) = 0;
  // A comma-separated list; `allowed` is for each element.
  virtual void field(std::string_view key, std::vector<std::string>& value,
                     const Allowed<std::string>& allowed, std::string_view help) = 0;
  virtual void field(std::string_view key, std::vector<double>& value,
                     const Allowed<double>& allowed, std::string_view help) = 0;
  // Unset unless given; written "auto" in run files. `unset` says what happens then ("=
  // num_attention_heads").
  virtual void field(std::string_view key, std::optional<int64_t>& value,
                     const Allowed<int64_t>& allowed, std::string_view unset,
                     std::string_view help) = 0;
  virtual void field(std::string_view key, std::optional<double>& value,
                     const Allowed<double>& allowed, std::string_view unset,
                     std::string_view help) = 0;
  // No default: a reader reports the key as missing when the file does not give it.
  virtual void required(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                        std::string_view help) = 0;
  virtual void required(std::string_view key, bool& value, std::string_view help) = 0;
  virtual void required(std::string_view key, std::string& value,
                        const Allowed<std::string>& allowed, std::string_view help) = 0;

  // "[optim]" at the top level; inside a section a group of dotted keys ("rope_scaling.factor").
  virtual void begin_section(std::string_view key, std::string_view help) = 0;
  virtual void end_section() = 0;

  // A contradiction between fields, found by visit() itself: reported with all others.
  virtual void problem(std::string_view key, const std::string& given, const std::string& allowed,
                       const std::string& hint = {}) = 0;
  // Keys of a foreign config.json that are known and change nothing here ("use_cache"): not
  // reported as unknown.
  virtual void ignore(std::string_view) {}
  // A key that other keys leave no room for: a problem when it is given. `allowed` says why
  // ("nothing while plan.file = p.json").
  virtual void forbid(std::string_view, const std::string& /*allowed*/) {}
};

// begin_section / end_section around a struct's visit().
template <class Config>
void visit_section(ConfigVisitor& v, std::string_view key, std::string_view help, Config& config) {
  v.begin_section(key, help);
  config.visit(v);
  v.end_section();
}

}  // namespace strata
