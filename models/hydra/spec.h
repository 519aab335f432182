#pragma once
#include <memory>

#include "models/hydra/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_hydra_spec(const HydraConfig& config, const ModelOptions& options);
}  // namespace strata
