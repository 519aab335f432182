#include "core/ops/cpu_rows.h"

#include <ATen/ops/zeros.h>

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

int64_t rows_per_partial(int64_t count, int64_t width) {
  constexpr int64_t kMostPartials = 256;
  const int64_t step = std::max<int64_t>(16, rows_per_block(width));
  return step * std::max<int64_t>(1, (count + step * kMostPartials - 1) / (step * kMostPartials));
}

Tensor sum_partials(const Tensor& partials) {
  const int64_t blocks = partials.size(0), width = partials.size(1);
  Tensor sum = at::zeros({width}, partials.options());
  with_types(partials, [&]<class S, class A>(S, A) {
    const S* from = partials.const_data_ptr<S>();
    S* to = sum.mutable_data_ptr<S>();
    for_blocks(width, rows_per_block(blocks), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t i = begin; i < end; ++i) to[i] += from[b * width + i];
      }
    });
  });
  return sum;
}

}  // namespace strata::ops
