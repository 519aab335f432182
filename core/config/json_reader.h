#pragma once
// Reads a JSON object (a config.json of the HF ecosystem) through the same visit() functions as a
// run file. Nested objects are sections. null counts as absent. Keys nobody asked for are returned
// by unused(), because foreign files carry many that change nothing.
#include <memory>
#include <string>
#include <vector>

#include "core/config/visitor.h"

namespace strata {

class JsonConfigReader {
 public:
  // text: a JSON object; name is shown in messages. Throws ConfigError when it is not one.
  JsonConfigReader(const std::string& text, const std::string& name);
  ~JsonConfigReader();
  ConfigVisitor& visitor();
  std::vector<std::string> unused() const;
  void finish();  // throws ConfigError with every problem

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
