#include "parallel/nn/model_spec.h"

#include <algorithm>
#include <set>

#include "core/text.h"

namespace strata {

bool ModelSpec::frozen(const std::string& parameter) const {
  return std::any_of(frozen_.begin(), frozen_.end(),
                     [&](const std::string& glob) { return glob_match(glob, parameter); });
}

std::vector<Module::Owned> collect_layer(const ModelSpec& spec, int layer, Module& module) {
  std::vector<Module::Owned> out = module.collect(spec.parameter_prefix(layer));
  for (const Module::Owned& owned : out) {
    ParamMeta& meta = owned.parameter->meta;
    if (spec.frozen(meta.name)) meta.trainable = meta.sum_grad_over_tp = false;
  }
  return out;
}

std::vector<ParamMeta> parameter_metas(const ModelSpec& spec) {
  const ParallelLayout layout = ParallelLayout::serial(at::kMeta);
  std::vector<ParamMeta> out;
  std::set<std::string> seen;
  for (int layer = 0; layer < spec.layer_count(); ++layer) {
    auto module = spec.make_layer(layer, layout);
    for (const auto& owned : collect_layer(spec, layer, *module)) {
      if (seen.insert(owned.parameter->meta.name).second) out.push_back(owned.parameter->meta);
    }
  }
  return out;
}

}  // namespace strata
