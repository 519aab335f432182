#include "optim/matrix/slab_grams.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "optim/matrix/symmetric_product.h"

namespace strata {

std::vector<double> slab_squares(const std::vector<Tensor>& slabs,
                                 const std::function<void(const Tensor&)>& sum) {
  if (slabs.empty()) return {};
  const auto count = std::ssize(slabs);
  const Tensor squares = at::zeros({count}, slabs[0].options().dtype(at::kDouble));
  for (int64_t i = 0; i < count; ++i)
    squares[i].copy_(slabs[static_cast<size_t>(i)].to(at::kDouble).square().sum());
  sum(squares);
  const Tensor here = squares.cpu();
  const double* values = here.const_data_ptr<double>();
  return {values, values + count};
}

std::vector<Tensor> slab_grams(const std::vector<Tensor>& slabs,
                               const std::function<void(const Tensor&)>& sum) {
  if (slabs.empty()) return {};
  const at::ScalarType type = slabs[0].scalar_type(), wide = accumulate_dtype(type);
  int64_t elements = 0, at = 0;
  for (const Tensor& x : slabs) elements += x.size(0) * x.size(0);
  const Tensor together = at::empty({elements}, slabs[0].options().dtype(wide));
  std::vector<Tensor> out;
  for (const Tensor& x : slabs) {
    const int64_t m = x.size(0);
    out.push_back(together.narrow(0, at, m * m).view({m, m}));
    at += m * m;
    if (type != wide) {
      out.back().copy_(at::mm(x, x.t()));
    } else {
      symmetric_product_out(out.back(), x, x.t());
    }
  }
  sum(together);
  return out;
}

}  // namespace strata
