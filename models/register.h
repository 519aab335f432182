#pragma once
// All model families, and how their specs are made from a run file or from a foreign config.json.
#include <functional>
#include <memory>
#include <string>

#include "core/ops/cross_entropy.h"
#include "parallel/nn/model_spec.h"

namespace strata {

class ConfigReader;

// Training-time options that are not part of a family's config.json.
struct ModelOptions {
  ops::CrossEntropyOptions loss;     // train.label_smoothing, train.z_loss
  int64_t head_chunk_tokens = 1024;  // train.head_chunk_tokens
};

// Adds the families that a program brings itself: registry.add("mine", ...). Called whenever a
// registry is made; the options go into the specs.
using ExtraFamilies = std::function<void(ModelRegistry& registry, const ModelOptions& options)>;

// One entry per family. The visitor reads the family's keys inside the current section ([model] or
// a config.json object).
ModelRegistry model_registry(const ModelOptions& options = {}, const ExtraFamilies& extra = {});

// The family of a config.json by its model_type ("llama", "gpt2", ...). Throws ConfigError naming
// what is known.
std::string family_of_config_json(const std::string& text, const std::string& name);
// Calls use(family, visitor) with a visitor that reads the keys of the config.json for a family's
// visit(). Throws ConfigError with every problem afterwards.
void visit_config_json(const std::string& text, const std::string& name,
                       const std::function<void(const std::string&, ConfigVisitor&)>& use);
std::unique_ptr<ModelSpec> make_model_from_json(const std::string& text, const std::string& name,
                                                const ModelOptions& options = {});

}  // namespace strata
