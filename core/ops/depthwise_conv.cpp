#include "core/ops/depthwise_conv.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/depthwise_conv_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace depthwise_conv_detail {

using depthwise_conv_cpu::Filter;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check(const Tensor& x, const Tensor& weight, const Tensor& bias, Padding padding,
           const Tensor& segments, const Tensor& initial_tail) {
  STRATA_CHECK(x.dim() == 3 && weight.dim() == 3 && weight.size(0) == x.size(2) &&
                   weight.size(1) == 1 && weight.size(2) >= 1,
               cat("depthwise_conv: weight ", shape_text(weight.sizes()), " does not fit x ",
                   shape_text(x.sizes())));
  const int64_t W = weight.size(2);
  STRATA_CHECK(!bias.defined() || (bias.dim() == 1 && bias.size(0) == x.size(2)),
               cat("depthwise_conv: bias ", shape_text(bias.sizes()), " does not fit x ",
                   shape_text(x.sizes())));
  STRATA_CHECK(padding == Padding::Causal || W % 2 == 1,
               cat("depthwise_conv: ", W,
                   " taps; the same padding on both sides needs an odd "
                   "number"));
  STRATA_CHECK(W <= kMostTaps, cat("depthwise_conv: ", W, " taps; at most ", kMostTaps));
  STRATA_CHECK(!segments.defined() || (segments.dim() == 2 && segments.size(0) == x.size(0) &&
                                       segments.size(1) == x.size(1)),
               "depthwise_conv: segments do not fit x");
  STRATA_CHECK(!initial_tail.defined() ||
                   (padding == Padding::Causal && initial_tail.dim() == 3 &&
                    initial_tail.size(0) == x.size(0) && initial_tail.size(1) == W - 1 &&
                    initial_tail.size(2) == x.size(2)),
               "depthwise_conv: an initial tail is [B, taps - 1, C], with causal padding only");
}

struct DepthwiseConv : torch::autograd::Function<DepthwiseConv> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight_WC,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& segments,
                        int64_t before, bool silu) {
    const Filter filter{weight_WC, bias.value_or(Tensor()), before, silu,
                        segments.value_or(Tensor())};
    ctx->saved_data["before"] = before;
    ctx->saved_data["silu"] = silu;
    ctx->save_for_backward({x, weight_WC, filter.bias_C, filter.segments_BT});
    return depthwise_conv_cpu::forward(x, filter);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Filter filter{saved[1], saved[2], ctx->saved_data["before"].toInt(),
                        ctx->saved_data["silu"].toBool(), saved[3]};
    const auto g =
        depthwise_conv_cpu::backward(grads[0], saved[0], filter,
                                     {.x = ctx->needs_input_grad(0),
                                      .weight = ctx->needs_input_grad(1),
                                      .bias = filter.bias_C.defined() && ctx->needs_input_grad(2)});
    return {g.x, g.weight_WC, g.bias_C, Tensor(), Tensor(), Tensor()};
  }
};

// x and segments with the earlier inputs in front.
struct Extended {
  Tensor x, segments;
};
Extended extended(const Tensor& x, const Tensor& segments, const Tensor& initial_tail) {
  if (!initial_tail.defined()) {
    return {x, segments};
  }
  Extended longer{at::cat({initial_tail.to(x.scalar_type()), x}, 1), segments};
  if (segments.defined()) {
    const Tensor first = segments.slice(1, 0, 1).expand({-1, initial_tail.size(1)});
    longer.segments = at::cat({first, segments}, 1);
  }
  return longer;
}

// The last W - 1 inputs, zeros where there were none or they belong to an earlier segment.
Tensor tail_of(const Extended& from, int64_t W) {
  const int64_t B = from.x.size(0), L = from.x.size(1), C = from.x.size(2);
  Tensor tail = from.x.slice(1, std::max<int64_t>(0, L - (W - 1)), L);
  if (from.segments.defined() && L > 0) {
    const Tensor last = from.segments.slice(1, L - 1, L);
    const Tensor mine = from.segments.slice(1, std::max<int64_t>(0, L - (W - 1)), L);
    const Tensor kept = mine.eq(last).logical_and(mine.ge(0)).unsqueeze(-1);
    tail = at::where(kept, tail, at::zeros_like(tail));
  }
  if (tail.size(1) < W - 1) {
    tail = at::cat({at::zeros({B, W - 1 - tail.size(1), C}, tail.options()), tail}, 1);
  }
  return tail;
}

template <class Conv>
ConvResult with_tail(const Tensor& x, int64_t W, Padding padding, const Tensor& segments,
                     const Tensor& initial_tail, const Conv& conv) {
  const Extended from = extended(x, segments, initial_tail);
  ConvResult result;
  result.y = conv(from);
  if (initial_tail.defined()) {
    result.y = result.y.slice(1, W - 1);
  }
  if (padding == Padding::Causal) {
    result.tail = tail_of(from, W);
  }
  return result;
}

}  // namespace depthwise_conv_detail

ConvResult depthwise_conv_composite(const Tensor& x_BTC, const Tensor& weight_C1W,
                                    const Tensor& bias_C, Padding padding, bool silu,
                                    const Tensor& segments_BT, const Tensor& initial_tail) {
  using namespace depthwise_conv_detail;
  check(x_BTC, weight_C1W, bias_C, padding, segments_BT, initial_tail);
  const int64_t W = weight_C1W.size(2);
  const int64_t before = padding == Padding::Causal ? W - 1 : W / 2;
  const auto acc = accumulate_dtype(x_BTC.scalar_type());
  return with_tail(
      x_BTC, W, padding, segments_BT, initial_tail, [&](const Extended& from) -> Tensor {
        const int64_t B = from.x.size(0), L = from.x.size(1), C = from.x.size(2);
        const auto padded = [&](const Tensor& v, Shape front, Shape back, double value) {
          return at::cat(
              {at::zeros(front, v.options()) + value, v, at::zeros(back, v.options()) + value}, 1);
        };
        const Tensor x = padded(from.x.to(acc), {B, before, C}, {B, W - 1 - before, C}, 0);
        const Tensor& own = from.segments;
        const Tensor other =
            own.defined() ? padded(own, {B, before}, {B, W - 1 - before}, -1).to(own.scalar_type())
                          : Tensor();
        Tensor u = at::zeros({B, L, C}, x.options());
        for (int64_t k = 0; k < W; ++k) {
          Tensor term = x.slice(1, k, k + L) * weight_C1W.select(2, k).select(1, 0).to(acc);
          if (own.defined()) {
            term = term * other.slice(1, k, k + L).eq(own).unsqueeze(-1).to(acc);
          }
          u = u + term;
        }
        if (bias_C.defined()) {
          u = u + bias_C.to(acc);
        }
        if (silu) {
          u = at::silu(u);
        }
        if (own.defined()) {
          u = u * own.ge(0).unsqueeze(-1).to(acc);
        }
        return u.to(x_BTC.scalar_type());
      });
}

ConvResult depthwise_conv(const Tensor& x_BTC, const Tensor& weight_C1W, const Tensor& bias_C,
                          Padding padding, bool silu, const Tensor& segments_BT,
                          const Tensor& initial_tail) {
  using namespace depthwise_conv_detail;
  if (!has_cpu_kernel(x_BTC)) {
    return depthwise_conv_composite(x_BTC, weight_C1W, bias_C, padding, silu, segments_BT,
                                    initial_tail);
  }
  check(x_BTC, weight_C1W, bias_C, padding, segments_BT, initial_tail);
  const int64_t W = weight_C1W.size(2);
  const int64_t before = padding == Padding::Causal ? W - 1 : W / 2;
  const auto acc = accumulate_dtype(x_BTC.scalar_type());
  const Tensor weight_WC = weight_C1W.select(1, 0).t().to(acc).contiguous();
  std::optional<Tensor> bias;
  if (bias_C.defined()) {
    bias = bias_C.to(acc).contiguous();
  }
  return with_tail(x_BTC, W, padding, segments_BT, initial_tail,
                   [&](const Extended& from) -> Tensor {
                     std::optional<Tensor> segments;
                     if (from.segments.defined()) {
                       segments = from.segments.to(at::kInt).contiguous();
                     }
                     return DepthwiseConv::apply(from.x, weight_WC, bias, segments, before, silu);
                   });
}

}  // namespace strata::ops
