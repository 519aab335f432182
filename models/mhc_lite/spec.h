#pragma once
#include <memory>

#include "models/mhc_lite/config.h"
#include "models/register.h"

namespace strata {
std::unique_ptr<ModelSpec> make_mhc_lite_spec(const MhcLiteConfig& config,
                                              const ModelOptions& options);
}  // namespace strata
