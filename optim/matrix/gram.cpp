#include "optim/matrix/gram.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/ops/matrix_product.h"

namespace strata {

Tensor gram(const Tensor& a) {
  const int64_t m = a.size(0);
  Tensor out = at::empty({m, m}, a.options());
  // At most eight strips: the excess over exactly half is an eighth of it. Thin strips are slow.
  const int64_t strip = std::max<int64_t>(64, (m + 7) / 8);
  for (int64_t begin = 0; begin < m; begin += strip) {
    const int64_t end = std::min(m, begin + strip);
    ops::matrix_product_out(out.slice(0, begin, end).slice(1, 0, end), a.slice(0, begin, end),
                            a.slice(0, 0, end).t());
    if (begin > 0) {
      out.slice(0, 0, begin)
          .slice(1, begin, end)
          .copy_(out.slice(0, begin, end).slice(1, 0, begin).t());
    }
  }
  return out;
}

}  // namespace strata
