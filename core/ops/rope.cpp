#include "core/ops/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>

#include "core/error.h"
#include "core/text.h"

namespace strata::ops {

Tensor rope_composite(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table) {
  const auto acc = accumulate_dtype(x_BTHK.scalar_type());
  const auto half = static_cast<int64_t>(table.inv_freq.size());
  const int64_t K = x_BTHK.size(-1);
  const Tensor inv_freq = at::from_blob(const_cast<double*>(table.inv_freq.data()), {half}, at::kDouble)
                              .clone()
                              .to(x_BTHK.device());
  const Tensor angle = (positions_BT.to(at::kDouble).unsqueeze(-1) * inv_freq).unsqueeze(2);
  const Tensor cos = (angle.cos() * table.magnitude).to(acc);
  const Tensor sin = (angle.sin() * table.magnitude).to(acc);
  const Tensor first = x_BTHK.narrow(-1, 0, half).to(acc);
  const Tensor second = x_BTHK.narrow(-1, half, half).to(acc);
  const auto dtype = x_BTHK.scalar_type();
  return at::cat({(first * cos - second * sin).to(dtype), (second * cos + first * sin).to(dtype),
                  x_BTHK.narrow(-1, 2 * half, K - 2 * half)},
                 -1);
}

Tensor rope(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table) {
  return rope_composite(x_BTHK, positions_BT, table);
}

}  // namespace strata::ops
