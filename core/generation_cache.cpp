#include "core/generation_cache.h"

namespace strata {

Tensor GenerationCache::get(const std::string& module, const std::string& slot) const {
  const auto it = slots_.find(module + "." + slot);
  return it == slots_.end() ? Tensor() : it->second;
}

void GenerationCache::set(const std::string& module, const std::string& slot, const Tensor& value) {
  slots_[module + "." + slot] = value.detach();
}

int64_t GenerationCache::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, value] : slots_) sum += static_cast<int64_t>(value.nbytes());
  return sum;
}

}  // namespace strata
