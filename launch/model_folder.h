#pragma once
// Models in folders: a checkpoint, a run, or config.json and model.safetensors as the family's
// ecosystem has them. What `strata ckpt convert` and `strata ckpt compress` read and write.
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

#include "models/register.h"
#include "parallel/engine/weight_source.h"

namespace strata {

struct ModelFolder {
  std::shared_ptr<const ModelSpec> model;
  std::unique_ptr<WeightSource> weights;
  std::filesystem::path checkpoint;  // empty: a folder of the family's own files
};
// A folder with config.json is taken as such, another one as a checkpoint or a run (its newest
// checkpoint). Throws ConfigError or CheckpointError.
ModelFolder open_model_folder(const std::filesystem::path& folder, const ExtraFamilies& families);

// Writes config.json and model.safetensors (fp32) of `model` with weights of `source` into `to`,
// which is created; `config` is what model was made from. `ternary`: parameters that are written as
// packed codes and their scale. Returns the number of tensors. Throws ConfigError when the folder
// has a model already.
size_t write_model_folder(const std::filesystem::path& to, const nlohmann::ordered_json& config,
                          const ModelSpec& model, const WeightSource& source,
                          const std::set<std::string>& ternary = {});

}  // namespace strata
