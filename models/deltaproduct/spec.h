#pragma once
#include <memory>

#include "models/deltaproduct/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_deltaproduct_spec(const DeltaProductConfig& config,
                                                  const ModelOptions& options);
}  // namespace strata
