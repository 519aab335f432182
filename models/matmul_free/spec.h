#pragma once
#include <memory>

#include "models/matmul_free/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_matmul_free_spec(const MatmulFreeConfig& config,
                                                 const ModelOptions& options);
}  // namespace strata
