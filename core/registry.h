#pragma once
// A table of named factories, filled by explicit register_x(registry) functions: no static
// registrars, so nothing is lost by the linker and nothing depends on initialisation order.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace strata {

template <class Product, class... Args>
class Registry {
 public:
  using Make = std::function<std::unique_ptr<Product>(Args...)>;

  // config_key: the key whose value names the entry, for error messages ("optim.name").
  explicit Registry(std::string config_key) : key_(std::move(config_key)) {}

  void add(std::string name, Make make) {
    STRATA_CHECK(makers_.count(name) == 0, cat(key_, ": \"", name, "\" is registered twice"));
    makers_.emplace(std::move(name), std::move(make));
  }
  bool contains(const std::string& name) const { return makers_.count(name) != 0; }

  // Throws ConfigError listing names() for an unknown name.
  std::unique_ptr<Product> make(const std::string& name, Args... args) const {
    auto it = makers_.find(name);
    if (it == makers_.end()) {
      throw ConfigError(key_, cat('"', name, '"'), join(names()), did_you_mean(name, names()));
    }
    return it->second(std::forward<Args>(args)...);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, make] : makers_) out.push_back(name);
    return out;
  }

 private:
  std::string key_;
  std::map<std::string, Make> makers_;
};

}  // namespace strata
