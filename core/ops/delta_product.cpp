#include "core/ops/delta_product.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/delta_product_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace delta_product_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor or_none(const std::optional<Tensor>& x) { return x.value_or(Tensor()); }
std::optional<Tensor> optional(const Tensor& x) {
  return x.defined() ? std::optional<Tensor>(x) : std::nullopt;
}

delta_cpu::Cut cut_of(const DeltaProductInputs& in) {
  const int64_t T = in.q_BTHK.size(1);
  return delta_cpu::cut(in.segments_BT, in.q_BTHK.size(0), T, T > 0 ? in.k_BMHK.size(1) / T : 1);
}

struct DeltaProduct : torch::autograd::Function<DeltaProduct> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k,
                               const Tensor& v, const std::optional<Tensor>& gate,
                               const Tensor& beta, const std::optional<Tensor>& initial_state,
                               const std::optional<Tensor>& segments) {
    DeltaProductInputs in{q, k, v, or_none(gate), beta, or_none(segments), or_none(initial_state)};
    const auto cut = cut_of(in);
    delta_cpu::Kept kept;
    DeltaProductResult result = delta_cpu::forward(in, cut, &kept);
    ctx->saved_data["gate"] = in.gate_BTH.defined();
    ctx->saved_data["initial_state"] = in.initial_state_BHKV.defined();
    ctx->save_for_backward(
        {q, k, v, in.gate_BTH, beta, in.segments_BT, kept.inverses, kept.states});
    ctx->set_materialize_grads(false);
    return {result.o_BTHV, result.state_BHKV};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const DeltaProductInputs in{saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], {}};
    const auto cut = cut_of(in);
    auto g = delta_cpu::backward(grads[0], grads[1], in, cut, {saved[6], saved[7]});
    if (!ctx->saved_data["initial_state"].toBool()) g.initial_state = Tensor();
    return {g.q, g.k, g.v, g.gate, g.beta, g.initial_state, Tensor()};
  }
};

void check(bool ok, const char* name, const Tensor& x, const DeltaProductInputs& in) {
  STRATA_CHECK(ok, cat("delta_product: ", name, " ", shape_text(x.sizes()), ' ',
                       dtype_name(x.scalar_type()), " does not fit q ",
                       shape_text(in.q_BTHK.sizes()), ", k ", shape_text(in.k_BMHK.sizes()), ", v ",
                       shape_text(in.v_BMHV.sizes()), ' ', dtype_name(in.v_BMHV.scalar_type())));
}

void check_inputs(const DeltaProductInputs& in) {
  const Tensor &q = in.q_BTHK, &k = in.k_BMHK, &v = in.v_BMHV;
  check(q.dim() == 4 && q.scalar_type() == v.scalar_type(), "q", q, in);
  check(
      k.dim() == 4 && k.scalar_type() == v.scalar_type() && k.size(0) == q.size(0) &&
          k.size(2) == q.size(2) && k.size(3) == q.size(3) &&
          (q.size(1) == 0 ? k.size(1) == 0 : k.size(1) >= q.size(1) && k.size(1) % q.size(1) == 0),
      "k", k, in);
  check(v.dim() == 4 && v.sizes().slice(0, 3) == k.sizes().slice(0, 3), "v", v, in);
  const auto acc = accumulate_dtype(v.scalar_type());
  check(in.beta_BMH.sizes() == k.sizes().slice(0, 3) && in.beta_BMH.scalar_type() == acc, "beta",
        in.beta_BMH, in);
  if (in.gate_BTH.defined()) {
    check(in.gate_BTH.sizes() == q.sizes().slice(0, 3) && in.gate_BTH.scalar_type() == acc, "gate",
          in.gate_BTH, in);
  }
  if (in.segments_BT.defined()) {
    check(
        in.segments_BT.sizes() == q.sizes().slice(0, 2) && in.segments_BT.scalar_type() == at::kInt,
        "segments", in.segments_BT, in);
  }
  if (in.initial_state_BHKV.defined()) {
    const Tensor& s = in.initial_state_BHKV;
    check(s.dim() == 4 && s.size(0) == q.size(0) && s.size(1) == q.size(2) &&
              s.size(2) == q.size(3) && s.size(3) == v.size(3) && s.scalar_type() == acc,
          "initial_state", s, in);
  }
}

Tensor dense_rows(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

}  // namespace delta_product_detail

DeltaProductResult delta_product(const DeltaProductInputs& in) {
  using namespace delta_product_detail;
  check_inputs(in);
  if (!has_cpu_kernel(in.v_BMHV)) return delta_product_composite(in);
  Tensor segments = in.segments_BT;
  if (segments.defined()) segments = segments.contiguous();
  const auto wants_gradient = [](const Tensor& x) { return x.defined() && x.requires_grad(); };
  if (!at::GradMode::is_enabled() ||
      !(wants_gradient(in.q_BTHK) || wants_gradient(in.k_BMHK) || wants_gradient(in.v_BMHV) ||
        wants_gradient(in.gate_BTH) || wants_gradient(in.beta_BMH) ||
        wants_gradient(in.initial_state_BHKV))) {
    DeltaProductInputs plain{dense_rows(in.q_BTHK), dense_rows(in.k_BMHK), dense_rows(in.v_BMHV),
                             in.gate_BTH,           in.beta_BMH,           segments,
                             in.initial_state_BHKV};
    return delta_cpu::forward(plain, cut_of(plain), nullptr);
  }
  const auto out = DeltaProduct::apply(dense_rows(in.q_BTHK), dense_rows(in.k_BMHK),
                                       dense_rows(in.v_BMHV), optional(in.gate_BTH), in.beta_BMH,
                                       optional(in.initial_state_BHKV), optional(segments));
  return {out[0], out[1]};
}

}  // namespace strata::ops
