#pragma once
#include <memory>

#include "models/gla/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_gla_spec(const GlaConfig& config, const ModelOptions& options);
}  // namespace strata
