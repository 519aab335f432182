#include "parallel/nn/model_spec.h"

#include <set>

namespace strata {

std::vector<ParamMeta> parameter_metas(const ModelSpec& spec) {
  const ParallelLayout layout = ParallelLayout::serial(at::kMeta);
  std::vector<ParamMeta> out;
  std::set<std::string> seen;
  for (int layer = 0; layer < spec.layer_count(); ++layer) {
    auto module = spec.make_layer(layer, layout);
    for (const auto& owned : module->collect(spec.parameter_prefix(layer))) {
      if (seen.insert(owned.parameter->meta.name).second) out.push_back(owned.parameter->meta);
    }
  }
  return out;
}

}  // namespace strata
