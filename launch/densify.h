#pragma once
// The switch from structured to dense linears during a run (train.densify_at): which model belongs
// to which part of the run.
#include <filesystem>
#include <memory>

#include "launch/run_config.h"

namespace strata {

class CheckpointReader;

// The step before which the weights become dense; none: -1.
int64_t densify_step(const RunConfig& config);
// The same model with dense linears. Throws ConfigError when nothing is structured.
std::shared_ptr<const ModelSpec> dense_model(const RunConfig& config);
// The model whose weights a checkpoint of this run holds; an empty path is the beginning of the
// run.
std::shared_ptr<const ModelSpec> model_of(const RunConfig& config,
                                          const std::filesystem::path& checkpoint);
// Factor of the learning rate: a linear warm-up over train.densify_warmup steps after the switch.
double densify_warmup(const RunConfig& config, int64_t step);

}  // namespace strata
