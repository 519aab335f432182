#include "core/ops/gla.h"

#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/gla_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace gla_detail {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Up to here the recurrence costs less than a chunk, most of which would be padding.
constexpr int64_t kFewTokens = 16;

struct Gla : torch::autograd::Function<Gla> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k,
                               const Tensor& v, const Tensor& g, const std::optional<Tensor>& state,
                               const std::optional<Tensor>& segments, double scale) {
    const gla_cpu::Inputs in{q,    k, v, g, segments.value_or(Tensor()), state.value_or(Tensor()),
                             scale};
    const gla_cpu::Outputs out =
        q.size(1) <= kFewTokens ? gla_cpu::forward_by_tokens(in) : gla_cpu::forward(in);
    ctx->save_for_backward({q, k, v, g, in.initial_state_BHKV, in.segments_BT, out.kept_LBHKV});
    ctx->saved_data["scale"] = scale;
    ctx->set_materialize_grads(false);
    return {out.o_BTHV, out.state_BHKV};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const gla_cpu::Inputs in{saved[0],
                             saved[1],
                             saved[2],
                             saved[3],
                             saved[5],
                             saved[4],
                             ctx->saved_data["scale"].toDouble()};
    const Tensor dstate = grads[1].defined() ? grads[1].contiguous() : Tensor();
    const auto gradients =
        gla_cpu::backward(grads[0], dstate, in, saved[6],
                          in.initial_state_BHKV.defined() && ctx->needs_input_grad(4));
    return {gradients.q, gradients.k, gradients.v, gradients.g, gradients.initial_state,
            Variable(),  Variable()};
  }
};

void check_shapes(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                  const Tensor& segments, const Tensor& state) {
  const bool fits = q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && g.sizes() == k.sizes() &&
                    k.sizes().slice(0, 3) == v.sizes().slice(0, 3) && q.size(0) == k.size(0) &&
                    q.size(1) == k.size(1) && q.size(3) == k.size(3) && k.size(2) > 0 &&
                    q.size(2) % k.size(2) == 0 && q.scalar_type() == k.scalar_type() &&
                    q.scalar_type() == v.scalar_type();
  STRATA_CHECK(fits, cat("gla: q ", shape_text(q.sizes()), ", k ", shape_text(k.sizes()), ", v ",
                         shape_text(v.sizes()), ", g ", shape_text(g.sizes()),
                         " are not [B, T, H, K], [B, T, G, K], [B, T, G, V], [B, T, G, K] of one "
                         "dtype with H a multiple of G"));
  STRATA_CHECK(!segments.defined() || segments.sizes() == q.sizes().slice(0, 2),
               cat("gla: segments are not [B, T] of q ", shape_text(q.sizes())));
  STRATA_CHECK(!state.defined() ||
                   (state.dim() == 4 && state.size(0) == q.size(0) && state.size(1) == q.size(2) &&
                    state.size(2) == q.size(3) && state.size(3) == v.size(3)),
               cat("gla: the initial state is not [B, H, K, V] of q ", shape_text(q.sizes())));
}

}  // namespace gla_detail

GlaResult gla(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGV,
              const Tensor& g_BTGK, const Tensor& segments_BT, const Tensor& initial_state_BHKV,
              double scale) {
  gla_detail::check_shapes(q_BTHK, k_BTGK, v_BTGV, g_BTGK, segments_BT, initial_state_BHKV);
  if (!has_cpu_kernel(q_BTHK)) {
    return gla_composite(q_BTHK, k_BTGK, v_BTGV, g_BTGK, segments_BT, initial_state_BHKV, scale);
  }
  const auto acc = accumulate_dtype(q_BTHK.scalar_type());
  std::optional<Tensor> state, segments;
  if (initial_state_BHKV.defined()) state = initial_state_BHKV.to(acc).contiguous();
  if (segments_BT.defined()) segments = segments_BT;
  const gla_detail::variable_list out =
      gla_detail::Gla::apply(q_BTHK, k_BTGK, v_BTGV, g_BTGK.to(acc), state, segments, scale);
  return {out[0], out[1]};
}

}  // namespace strata::ops
