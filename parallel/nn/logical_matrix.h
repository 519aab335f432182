#pragma once
// The matrices that matrix rules work on. A parameter is one matrix (rows = outputs, everything
// else = columns), several that are stacked in its rows (ParamMeta::matrix_rows: fused q, k, v), or
// one per leading index (the blocks of a Monarch factor). A vector is a matrix of one row. Never a
// tensor of a layout: the same list for every plan.
#include <cstdint>
#include <vector>

#include "parallel/nn/parameter.h"

namespace strata {

struct LogicalMatrix {
  int64_t index = 0;           // within its parameter
  int64_t rows = 0, cols = 0;  // outputs x inputs
  Box box;                     // of the logical tensor
};

// Pure. Empty for scalars.
std::vector<LogicalMatrix> logical_matrices(const ParamMeta& meta);

}  // namespace strata
