#include "core/ops/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/rope_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace rope_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_shapes(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table) {
  STRATA_CHECK(x_BTHK.dim() == 4 && positions_BT.sizes() == x_BTHK.sizes().slice(0, 2) &&
                   positions_BT.scalar_type() == at::kLong &&
                   2 * static_cast<int64_t>(table.inv_freq.size()) <= x_BTHK.size(3),
               cat("rope: x ", shape_text(x_BTHK.sizes()), " with positions ",
                   shape_text(positions_BT.sizes()), " of ", dtype_name(positions_BT.scalar_type()),
                   " and ", table.inv_freq.size(), " frequencies"));
}

struct Rope : torch::autograd::Function<Rope> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& positions,
                        const RopeTable& table) {
    ctx->save_for_backward({positions});
    ctx->saved_data["inv_freq"] = table.inv_freq;
    ctx->saved_data["magnitude"] = table.magnitude;
    return rope_cpu::rotate(x, positions, table, rope_cpu::Turn::Forward);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const RopeTable table{ctx->saved_data["inv_freq"].toDoubleVector(),
                          ctx->saved_data["magnitude"].toDouble()};
    return {rope_cpu::rotate(grads[0], ctx->get_saved_variables()[0], table, rope_cpu::Turn::Back),
            Tensor(), Tensor()};
  }
};

}  // namespace rope_detail

Tensor rope_composite(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table) {
  rope_detail::check_shapes(x_BTHK, positions_BT, table);
  const auto acc = accumulate_dtype(x_BTHK.scalar_type());
  const auto half = static_cast<int64_t>(table.inv_freq.size());
  const int64_t K = x_BTHK.size(-1);
  const Tensor inv_freq =
      at::from_blob(const_cast<double*>(table.inv_freq.data()), {half}, at::kDouble)
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
  if (!has_cpu_kernel(x_BTHK)) {
    return rope_composite(x_BTHK, positions_BT, table);
  }
  rope_detail::check_shapes(x_BTHK, positions_BT, table);
  return rope_detail::Rope::apply(x_BTHK, positions_BT, table);
}

}  // namespace strata::ops
