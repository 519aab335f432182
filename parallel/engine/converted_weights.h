#pragma once
// Weights of a model whose linears have another form: dense matrices from structured ones
// (exactly), structured ones nearest to dense ones (core/ops/monarch.h, low_rank.h). Everything
// else is handed through.
#include <memory>

#include "parallel/engine/weight_source.h"

namespace strata {

struct ConversionOptions {
  bool shuffled = false;  // of the block-diagonal side
  // Further names of a linear on the other side, as parts of names: {".mlp.c_fc.", ".mlp.fc1."}.
  std::vector<std::pair<std::string, std::string>> aliases = {{".mlp.c_fc.", ".mlp.fc1."},
                                                              {".mlp.c_proj.", ".mlp.fc2."}};
};

// `source` holds the weights of `from`; what is read are parameters of another model. Both must
// outlive the result. Reading a parameter that cannot be made throws CheckpointError.
std::unique_ptr<WeightSource> make_converted_weights(const WeightSource& source,
                                                     const ModelSpec& from,
                                                     const ConversionOptions& options = {});

// Relative Frobenius error of each matrix that became structured; by name, in the order read.
struct ProjectionError {
  std::string name;
  double relative = 0;
};
const std::vector<ProjectionError>& projection_errors(const WeightSource& converted);

}  // namespace strata
