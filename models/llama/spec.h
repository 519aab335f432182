#pragma once
#include <memory>

#include "models/llama/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_llama_spec(const LlamaConfig& config, const ModelOptions& options);
}  // namespace strata
