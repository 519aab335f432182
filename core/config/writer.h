#pragma once
// Visitors that print the schema: the effective configuration as a loadable run file, the help
// text, docs/config.md and a machine-readable schema.
#include <memory>
#include <string>

#include "core/config/visitor.h"

namespace strata {

enum class ConfigFormat {
  Ini,       // "key = value" of every field: reading it back gives the same configuration
  Help,      // key, default, allowed, help; for terminals
  Markdown,  // tables, for docs/config.md
  Json,      // {"section.key": {"type", "default", "allowed", "help"}}
};

class ConfigWriter {
 public:
  explicit ConfigWriter(ConfigFormat format);
  ~ConfigWriter();
  ConfigVisitor& visitor();
  std::string text() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
