#include "core/ops/ssd.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/ssd_check.h"
#include "core/ops/ssd_cpu.h"
#include "core/text.h"

namespace strata::ops {

void check_scan(const char* op, const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                const Tensor& C, const Tensor& segments, const Tensor& initial) {
  STRATA_CHECK(
      x.dim() == 4 && dt.sizes() == x.sizes().slice(0, 3) && A.dim() == 1 && A.size(0) == x.size(2),
      cat(op, ": dt ", shape_text(dt.sizes()), " or A ", shape_text(A.sizes()), " does not fit x ",
          shape_text(x.sizes())));
  STRATA_CHECK(
      B.dim() == 4 && B.sizes() == C.sizes() && B.sizes().slice(0, 2) == x.sizes().slice(0, 2) &&
          B.size(2) > 0 && x.size(2) % B.size(2) == 0,
      cat(op, ": B ", shape_text(B.sizes()), " or C ", shape_text(C.sizes()), " does not fit x ",
          shape_text(x.sizes()), "; the heads must be a multiple of the groups"));
  STRATA_CHECK(!segments.defined() || segments.sizes() == x.sizes().slice(0, 2),
               cat(op, ": segments ", segments.defined() ? shape_text(segments.sizes()) : "",
                   " do not fit x ", shape_text(x.sizes())));
  STRATA_CHECK(!initial.defined() ||
                   initial.sizes() == at::IntArrayRef({x.size(0), x.size(2), x.size(3), B.size(3)}),
               cat(op, ": an initial state is [B, H, P, N]"));
}

namespace ssd_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

ssd_cpu::Problem problem_of(const variable_list& t, bool reverse, int64_t chunk) {
  ssd_cpu::Problem problem;
  problem.x_BTHP = t[0];
  problem.A_H = t[2];
  problem.scans = {{t[1], t[3], t[4], t[6], reverse}};
  problem.segments_BT = t[5];
  problem.chunk = chunk;
  return problem;
}

struct Ssd : torch::autograd::Function<Ssd> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& dt,
                               const Tensor& A, const Tensor& B, const Tensor& C,
                               const std::optional<Tensor>& segments,
                               const std::optional<Tensor>& initial, bool reverse, int64_t chunk) {
    const variable_list given = {
        x, dt, A, B, C, segments.value_or(Tensor()), initial.value_or(Tensor())};
    ctx->save_for_backward(given);
    ctx->saved_data["reverse"] = reverse;
    ctx->saved_data["chunk"] = chunk;
    ctx->set_materialize_grads(false);
    auto output = ssd_cpu::forward(problem_of(given, reverse, chunk));
    return {output.y_BTHP, output.final_states[0]};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list given = ctx->get_saved_variables();
    const auto problem =
        problem_of(given, ctx->saved_data["reverse"].toBool(), ctx->saved_data["chunk"].toInt());
    const Tensor dy = grads[0].defined() ? grads[0] : given[0].new_zeros(given[0].sizes());
    auto g = ssd_cpu::backward(problem, dy, {grads[1]});
    auto& scan = g.scans[0];
    return {g.x_BTHP, scan.dt_BTH,       g.A_H,    scan.B_BTGN, scan.C_BTGN,
            Tensor(), scan.initial_BHPN, Tensor(), Tensor()};
  }
};

}  // namespace ssd_detail

SsdResult ssd(const Tensor& x_BTHP, const Tensor& dt_BTH, const Tensor& A_H, const Tensor& B_BTGN,
              const Tensor& C_BTGN, const Tensor& segments_BT, const Tensor& initial_BHPN,
              SsdOptions options) {
  if (!has_cpu_kernel(x_BTHP)) {
    return ssd_composite(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, segments_BT, initial_BHPN, options);
  }
  check_scan("ssd", x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, segments_BT, initial_BHPN);
  const auto acc = accumulate_dtype(x_BTHP.scalar_type());
  std::optional<Tensor> segments, initial;
  if (segments_BT.defined()) {
    segments = segments_BT.to(at::kInt).contiguous();
  }
  if (initial_BHPN.defined()) {
    initial = initial_BHPN.to(acc).contiguous();
  }
  const auto out =
      ssd_detail::Ssd::apply(x_BTHP, dt_BTH.to(acc).contiguous(), A_H.to(acc).contiguous(),
                             B_BTGN.to(x_BTHP.scalar_type()), C_BTGN.to(x_BTHP.scalar_type()),
                             segments, initial, options.reverse, options.chunk);
  return {out[0], out[1]};
}

}  // namespace strata::ops
