#include "core/ops/quasiseparable.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/ops/cpu_rows.h"
#include "core/ops/ssd.h"
#include "core/ops/ssd_check.h"
#include "core/ops/ssd_cpu.h"

namespace strata::ops {

namespace quasiseparable_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x, A, dtf, Bf, Cf, dtb, Bb, Cb, delta, segments, initial [B,H,P,N]
ssd_cpu::Problem problem_of(const variable_list& t, int64_t chunk) {
  ssd_cpu::Problem problem;
  problem.x_BTHP = t[0];
  problem.A_H = t[1];
  problem.scans = {{t[2], t[3], t[4], t[10], false}, {t[5], t[6], t[7], t[10], true}};
  problem.delta_BTH = t[8];
  problem.segments_BT = t[9];
  problem.shift = 1;
  problem.chunk = chunk;
  return problem;
}

struct Quasiseparable : torch::autograd::Function<Quasiseparable> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& A, const Tensor& dtf,
                        const Tensor& Bf, const Tensor& Cf, const Tensor& dtb, const Tensor& Bb,
                        const Tensor& Cb, const Tensor& delta,
                        const std::optional<Tensor>& segments, const std::optional<Tensor>& initial,
                        int64_t chunk) {
    const variable_list given = {x,
                                 A,
                                 dtf,
                                 Bf,
                                 Cf,
                                 dtb,
                                 Bb,
                                 Cb,
                                 delta,
                                 segments.value_or(Tensor()),
                                 initial.value_or(Tensor())};
    ctx->save_for_backward(given);
    ctx->saved_data["chunk"] = chunk;
    return ssd_cpu::forward(problem_of(given, chunk)).y_BTHP;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto g = ssd_cpu::backward(
        problem_of(ctx->get_saved_variables(), ctx->saved_data["chunk"].toInt()), grads[0], {});
    auto &f = g.scans[0], &b = g.scans[1];
    Tensor initial;
    if (f.initial_BHPN.defined()) {
      initial = f.initial_BHPN + b.initial_BHPN;
    }
    return {g.x_BTHP, g.A_H,    f.dt_BTH,    f.B_BTGN, f.C_BTGN, b.dt_BTH,
            b.B_BTGN, b.C_BTGN, g.delta_BTH, Tensor(), initial,  Tensor()};
  }
};

}  // namespace quasiseparable_detail

Tensor quasiseparable(const Tensor& x_BTHP, const Tensor& A_H, const ScanInputs& forward,
                      const ScanInputs& backward, const Tensor& delta_BTH,
                      const Tensor& segments_BT, const Tensor& initial_HPN, int64_t chunk) {
  if (!has_cpu_kernel(x_BTHP)) {
    return quasiseparable_composite(x_BTHP, A_H, forward, backward, delta_BTH, segments_BT,
                                    initial_HPN, chunk);
  }
  const auto dtype = x_BTHP.scalar_type(), acc = accumulate_dtype(dtype);
  std::optional<Tensor> segments, initial;
  if (segments_BT.defined()) {
    segments = segments_BT.to(at::kInt).contiguous();
  }
  if (initial_HPN.defined()) {
    initial = initial_HPN.to(acc).unsqueeze(0).expand({x_BTHP.size(0), -1, -1, -1}).contiguous();
  }
  for (const ScanInputs* scan : {&forward, &backward}) {
    check_scan("quasiseparable", x_BTHP, scan->dt_BTH, A_H, scan->B_BTGN, scan->C_BTGN, segments_BT,
               initial.value_or(Tensor()));
  }
  return quasiseparable_detail::Quasiseparable::apply(
      x_BTHP, A_H.to(acc).contiguous(), forward.dt_BTH.to(acc).contiguous(),
      forward.B_BTGN.to(dtype), forward.C_BTGN.to(dtype), backward.dt_BTH.to(acc).contiguous(),
      backward.B_BTGN.to(dtype), backward.C_BTGN.to(dtype), delta_BTH.to(acc).contiguous(),
      segments, initial, chunk);
}

Tensor quasiseparable_composite(const Tensor& x_BTHP, const Tensor& A_H, const ScanInputs& forward,
                                const ScanInputs& backward, const Tensor& delta_BTH,
                                const Tensor& segments_BT, const Tensor& initial_HPN,
                                int64_t chunk) {
  const auto acc = accumulate_dtype(x_BTHP.scalar_type());
  Tensor initial;
  if (initial_HPN.defined()) {
    initial = initial_HPN.unsqueeze(0).expand({x_BTHP.size(0), -1, -1, -1});
  }
  const auto scan = [&](const ScanInputs& in, bool reverse) {
    return ssd_composite(x_BTHP, in.dt_BTH, A_H, in.B_BTGN, in.C_BTGN, segments_BT, initial,
                         {.reverse = reverse, .chunk = chunk})
        .y.to(acc);
  };
  // What a token reads from its neighbour, if that is of its own segment.
  const int64_t T = x_BTHP.size(1);
  const auto shifted = [&](const Tensor& z, bool from_before) {
    const Tensor nothing = at::zeros_like(z.slice(1, 0, std::min<int64_t>(1, T)));
    Tensor moved = from_before ? z.slice(1, 0, std::max<int64_t>(0, T - 1)) : z.slice(1, 1, T);
    if (segments_BT.defined() && T > 1) {
      const Tensor same =
          segments_BT.slice(1, 0, T - 1).eq(segments_BT.slice(1, 1, T)).view({-1, T - 1, 1, 1});
      moved = at::where(same, moved, at::zeros_like(moved));
    }
    return from_before ? at::cat({nothing, moved}, 1) : at::cat({moved, nothing}, 1);
  };
  const Tensor y = shifted(scan(forward, false), true) + shifted(scan(backward, true), false) +
                   delta_BTH.to(acc).unsqueeze(-1) * x_BTHP.to(acc);
  return y.to(x_BTHP.scalar_type());
}

}  // namespace strata::ops
