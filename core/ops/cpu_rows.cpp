#include "core/ops/cpu_rows.h"

namespace strata::ops {

Rows rows_of(const Tensor& x) {
  const int64_t dims = x.dim();
  const int64_t width = dims == 0 ? 1 : x.size(-1);
  const int64_t count = width == 0 ? 0 : x.numel() / width;
  if (x.is_contiguous() || dims < 2 || count == 0) {
    return {x.contiguous(), count, width, width};
  }
  // Leading dimensions of extent 1 have no say; the others must step evenly.
  bool even = x.stride(-1) == 1 || width == 1;
  int64_t stride = 0, next = 0;
  for (int64_t d = dims - 2; d >= 0; --d) {
    if (x.size(d) == 1) {
      continue;
    }
    if (stride == 0) {
      stride = x.stride(d);
      next = stride;
    }
    even = even && x.stride(d) == next;
    next *= x.size(d);
  }
  if (!even || stride < width) {  // overlapping (expanded) rows are copied too
    return {x.contiguous(), count, width, width};
  }
  return {x, count, width, stride};
}

}  // namespace strata::ops
