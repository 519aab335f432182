#pragma once
// Reads each field and writes down what it then holds, so that the effective configuration comes
// out of the same pass, including keys that only a registry's product knows.
#include "core/config/visitor.h"

namespace strata {

class TeeVisitor final : public ConfigVisitor {
 public:
  TeeVisitor(ConfigVisitor& first, ConfigVisitor& second) : first_(first), second_(second) {}

  void field(std::string_view key, bool& value, std::string_view help) override {
    both(key, value, help);
  }
  void field(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
             std::string_view help) override {
    both(key, value, allowed, help);
  }
  void field(std::string_view key, double& value, const Allowed<double>& allowed,
             std::string_view help) override {
    both(key, value, allowed, help);
  }
  void field(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
             std::string_view help) override {
    both(key, value, allowed, help);
  }
  void field(std::string_view key, std::vector<std::string>& value,
             const Allowed<std::string>& allowed, std::string_view help) override {
    both(key, value, allowed, help);
  }
  void field(std::string_view key, std::vector<double>& value, const Allowed<double>& allowed,
             std::string_view help) override {
    both(key, value, allowed, help);
  }
  void field(std::string_view key, std::optional<int64_t>& value, const Allowed<int64_t>& allowed,
             std::string_view unset, std::string_view help) override {
    both(key, value, allowed, unset, help);
  }
  void field(std::string_view key, std::optional<double>& value, const Allowed<double>& allowed,
             std::string_view unset, std::string_view help) override {
    both(key, value, allowed, unset, help);
  }
  void required(std::string_view key, int64_t& value, const Allowed<int64_t>& allowed,
                std::string_view help) override {
    first_.required(key, value, allowed, help);
    second_.required(key, value, allowed, help);
  }
  void required(std::string_view key, bool& value, std::string_view help) override {
    first_.required(key, value, help);
    second_.required(key, value, help);
  }
  void required(std::string_view key, std::string& value, const Allowed<std::string>& allowed,
                std::string_view help) override {
    first_.required(key, value, allowed, help);
    second_.required(key, value, allowed, help);
  }
  void begin_section(std::string_view key, std::string_view help) override {
    first_.begin_section(key, help);
    second_.begin_section(key, help);
  }
  void end_section() override {
    first_.end_section();
    second_.end_section();
  }
  void problem(std::string_view key, const std::string& given, const std::string& allowed,
               const std::string& hint) override {
    first_.problem(key, given, allowed, hint);
  }
  void ignore(std::string_view key) override { first_.ignore(key); }
  void forbid(std::string_view key, const std::string& allowed) override {
    first_.forbid(key, allowed);
  }

 private:
  template <class... Args>
  void both(Args&&... args) {
    first_.field(args...);
    second_.field(args...);
  }

  ConfigVisitor& first_;
  ConfigVisitor& second_;
};

}  // namespace strata
