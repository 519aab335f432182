#include "core/ops/gated_scan.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/gated_scan_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace gated_scan_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Scan : torch::autograd::Function<Scan> {
  static variable_list forward(AutogradContext* ctx, const Tensor& input, const Tensor& forget,
                               const std::optional<Tensor>& bound,
                               const std::optional<Tensor>& segments,
                               const std::optional<Tensor>& initial) {
    const gated_scan_cpu::Inputs in{input, forget, bound.value_or(Tensor()),
                                    segments.value_or(Tensor()), initial.value_or(Tensor())};
    const GatedScan out = gated_scan_cpu::forward(in);
    ctx->saved_data["bound"] = bound.has_value();
    ctx->saved_data["initial"] = initial.has_value();
    ctx->saved_data["segments"] = segments.has_value();
    ctx->set_materialize_grads(false);
    variable_list saved = {input, forget, out.h_BTD};
    for (const auto* given : {&bound, &segments, &initial}) {
      if (given->has_value()) saved.push_back(**given);
    }
    ctx->save_for_backward(saved);
    return {out.h_BTD, out.state_BD};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    size_t next = 3;
    const auto take = [&](const char* name) {
      return ctx->saved_data[name].toBool() ? saved[next++] : Tensor();
    };
    gated_scan_cpu::Inputs in{saved[0], saved[1], {}, {}, {}};
    in.bound_D = take("bound");
    in.segments_BT = take("segments");
    in.initial_BD = take("initial");
    const Tensor dh = grads[0].defined() ? grads[0] : at::zeros_like(saved[2]);
    const auto g = gated_scan_cpu::backward(dh, grads[1], in, saved[2]);
    return {g.input_BTD, g.forget_BTD, in.bound_D.defined() ? g.bound_D : Tensor(), Tensor(),
            in.initial_BD.defined() ? g.initial_BD : Tensor()};
  }
};

std::optional<Tensor> given(const Tensor& t) {
  return t.defined() ? std::optional<Tensor>(t) : std::nullopt;
}

void check(const Tensor& input, const Tensor& forget, const Tensor& bound, const Tensor& segments,
           const Tensor& initial) {
  STRATA_CHECK(input.dim() == 3 && forget.sizes() == input.sizes() &&
                   forget.scalar_type() == input.scalar_type(),
               cat("gated_scan: input ", shape_text(input.sizes()), ", forget ",
                   shape_text(forget.sizes())));
  const int64_t B = input.size(0), T = input.size(1), D = input.size(2);
  STRATA_CHECK(!bound.defined() || (bound.dim() == 1 && bound.size(0) == D),
               "gated_scan: a bound has one number for each channel");
  STRATA_CHECK(!segments.defined() || (segments.dim() == 2 && segments.size(0) == B &&
                                       segments.size(1) == T && segments.scalar_type() == at::kInt),
               "gated_scan: segments are int32 [B, T]");
  STRATA_CHECK(
      !initial.defined() || (initial.dim() == 2 && initial.size(0) == B && initial.size(1) == D),
      "gated_scan: an initial state is [B, D]");
}

}  // namespace gated_scan_detail

GatedScan gated_scan_composite(const Tensor& input_BTD, const Tensor& forget_BTD,
                               const Tensor& bound_D, const Tensor& segments_BT,
                               const Tensor& initial_BD) {
  using namespace gated_scan_detail;
  check(input_BTD, forget_BTD, bound_D, segments_BT, initial_BD);
  const auto acc = accumulate_dtype(input_BTD.scalar_type());
  const int64_t B = input_BTD.size(0), T = input_BTD.size(1), D = input_BTD.size(2);
  const Tensor u = input_BTD.to(acc), s = at::sigmoid(forget_BTD.to(acc));
  const Tensor f = bound_D.defined() ? bound_D.to(acc) + (1 - bound_D.to(acc)) * s : s;
  const Tensor z = at::silu(u) * (1 - f);
  Tensor state = initial_BD.defined() ? initial_BD.to(acc) : at::zeros({B, D}, u.options());
  Tensor current;  // number of the last token that was not padding, -1 before the first
  if (segments_BT.defined()) current = at::zeros({B, 1}, segments_BT.options()) - 1;
  std::vector<Tensor> h;
  for (int64_t t = 0; t < T; ++t) {
    Tensor before = state;
    if (!segments_BT.defined()) {
      state = f.select(1, t) * before + z.select(1, t);
    } else {
      const Tensor segment = segments_BT.narrow(1, t, 1), padding = segment.eq(-1);
      const Tensor restart = current.ne(-1) * segment.ne(current);
      before = at::where(restart, at::zeros_like(before), before);
      state = at::where(padding, state, f.select(1, t) * before + z.select(1, t));
      current = at::where(padding, current, segment);
      h.push_back(at::where(padding, state.detach(), state));
      continue;
    }
    h.push_back(state);
  }
  const Tensor all = T > 0 ? at::stack(h, 1) : input_BTD.to(acc);
  return {all.to(input_BTD.scalar_type()), state};
}

GatedScan gated_scan(const Tensor& input_BTD, const Tensor& forget_BTD, const Tensor& bound_D,
                     const Tensor& segments_BT, const Tensor& initial_BD) {
  using namespace gated_scan_detail;
  check(input_BTD, forget_BTD, bound_D, segments_BT, initial_BD);
  if (!has_cpu_kernel(input_BTD)) {
    return gated_scan_composite(input_BTD, forget_BTD, bound_D, segments_BT, initial_BD);
  }
  const auto acc = accumulate_dtype(input_BTD.scalar_type());
  const auto wide = [&](const Tensor& t) { return t.defined() ? t.to(acc).contiguous() : t; };
  const auto out =
      Scan::apply(input_BTD.contiguous(), forget_BTD.contiguous(), given(wide(bound_D)),
                  given(segments_BT.defined() ? segments_BT.contiguous() : segments_BT),
                  given(wide(initial_BD)));
  return {out[0], out[1]};
}

Tensor gate_bound(const Tensor& theta_LD, int64_t layer) {
  if (layer == 0) return at::zeros({theta_LD.size(1)}, theta_LD.options());
  return at::softmax(theta_LD, 0).narrow(0, 1, layer).sum(0);
}

}  // namespace strata::ops
