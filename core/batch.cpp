#include "core/batch.h"

#include <ATen/ops/arange.h>

#include "core/error.h"
#include "core/text.h"

namespace strata {

Batch Batch::slice(int64_t begin, int64_t end) const {
  STRATA_CHECK(0 <= begin && begin <= end && end <= rows(),
               cat("rows [", begin, ", ", end, ") of a batch of ", rows(), " rows"));
  const auto part = [&](const Tensor& whole) {
    return whole.defined() ? whole.narrow(0, begin, end - begin) : Tensor();
  };
  Batch out = *this;
  out.tokens = part(tokens);
  out.labels = part(labels);
  out.positions = part(positions);
  out.segments = part(segments);
  out.first_row = first_row + begin;
  return out;
}

Tensor default_positions(int64_t rows, int64_t length) {
  return at::arange(length, at::TensorOptions().dtype(at::kLong))
      .unsqueeze(0)
      .expand({rows, length})
      .contiguous();
}

}  // namespace strata
