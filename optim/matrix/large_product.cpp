#include "optim/matrix/large_product.h"

#include <ATen/ops/empty.h>

#include "core/ops/matrix_product.h"
#include "core/ops/tile_product.h"

namespace strata {

void large_product_out(const Tensor& to, const Tensor& a, const Tensor& b, bool accumulate) {
  if (ops::takes_tile_product(a, b))
    return ops::tile_product_out(to, a, b, {.beta = accumulate ? 1. : 0.}, to);
  ops::matrix_product_out(to, a, b, accumulate);
}

Tensor large_product(const Tensor& a, const Tensor& b) {
  Tensor to = at::empty({a.size(0), b.size(1)}, a.options());
  large_product_out(to, a, b);
  return to;
}

}  // namespace strata
