#include "launch/densify.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"
#include "models/parts/linear_parts.h"
#include "parallel/checkpoint/checkpoint.h"

namespace strata {

int64_t densify_step(const RunConfig& config) {
  if (config.train.densify_at >= 1) return -1;
  return std::llround(std::ceil(config.train.densify_at * static_cast<double>(config.train.steps)));
}

std::shared_ptr<const ModelSpec> dense_model(const RunConfig& config) {
  auto j = nlohmann::json::parse(config.model->foreign_config());
  if (!j.contains("structured_linear")) {
    throw ConfigError("train.densify_at", number_text(config.train.densify_at), "1",
                      " (no linear of the model is structured: model.linear)");
  }
  for (const std::string& key : linear_structure_keys()) j.erase(key);
  ModelOptions options;
  options.loss.label_smoothing = config.train.label_smoothing;
  options.loss.z_loss = config.train.z_loss;
  options.head_chunk_tokens = config.train.head_chunk_tokens;
  auto dense = make_model_from_json(j.dump(), "the dense model", options);
  dense->freeze(config.train.freeze);
  return dense;
}

std::shared_ptr<const ModelSpec> model_of(const RunConfig& config,
                                          const std::filesystem::path& checkpoint) {
  if (densify_step(config) < 0 || checkpoint.empty()) return config.model;
  const CheckpointReader reader(checkpoint);
  return reader.state().count("densified") > 0 ? dense_model(config) : config.model;
}

double densify_warmup(const RunConfig& config, int64_t step) {
  const int64_t begin = densify_step(config), length = config.train.densify_warmup;
  if (begin < 0 || step < begin || step >= begin + length) return 1;
  return static_cast<double>(step - begin + 1) / static_cast<double>(length);
}

}  // namespace strata
