#pragma once
#include <memory>

#include "models/gpt2/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_gpt2_spec(const Gpt2Config& config, const ModelOptions& options);
}  // namespace strata
