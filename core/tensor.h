#pragma once
// LibTorch's Tensor and the few dtype helpers every folder needs. The only torch header that public
// headers may include (about 3 s); sources add ATen/ops/<op>.h for what they call.
#include <ATen/core/Tensor.h>

#include <string>

#include "core/tensor_fwd.h"

namespace strata {

// Product of the extents; 1 for a scalar.
int64_t element_count(const Shape& shape);

// "f32", "bf16", "f64", "f16", "i64", ... as written in run files, checkpoints and messages ("fp32"
// in run files is read by parse_train_dtype).
std::string dtype_name(at::ScalarType dtype);
// Reverse of dtype_name. Throws ConfigError for unknown names.
at::ScalarType parse_dtype(const std::string& name);

// "fp32" | "bf16" | "fp64" of train.dtype.
at::ScalarType parse_train_dtype(const std::string& name);

// Type in which values of `dtype` are accumulated, reduced and held by optimizers: fp64 for fp64,
// else fp32.
at::ScalarType accumulate_dtype(at::ScalarType dtype);

// "[2, 3, 4]"
std::string shape_text(at::IntArrayRef shape);

}  // namespace strata
