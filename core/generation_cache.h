#pragma once
// What layers remember of a text while it is continued token by token: recurrent states, the last
// inputs of short convolutions, keys and values of attention. Held by whoever generates, one on
// every rank; layers find it in Batch::cache and fill the slots of their modules.
#include <cstdint>
#include <map>
#include <string>

#include "core/tensor.h"

namespace strata {

class GenerationCache {
 public:
  // Undefined before the first batch.
  Tensor get(const std::string& module, const std::string& slot) const;
  void set(const std::string& module, const std::string& slot, const Tensor& value);
  int64_t bytes() const;  // of everything remembered

  int64_t tokens = 0;  // of the text before the batch; moved on by the caller after each batch

 private:
  std::map<std::string, Tensor> slots_;  // by "module.slot"
};

}  // namespace strata
