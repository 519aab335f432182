#include "core/ops/streams.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/matrix_product.h"
#include "core/ops/streams_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace streams_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Read : torch::autograd::Function<Read> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& read) {
    ctx->save_for_backward({x, read});
    return streams_cpu::read_forward(x, read);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    Tensor dx, dread;
    streams_cpu::read_backward(grads[0].contiguous(), saved[0], saved[1], dx, dread);
    return {dx, dread};
  }
};

struct Write : torch::autograd::Function<Write> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& y, const Tensor& mix,
                        const Tensor& write) {
    ctx->save_for_backward({x, y, mix, write});
    return streams_cpu::write_forward(x, y, mix, write);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto d =
        streams_cpu::write_backward(grads[0].contiguous(), saved[0], saved[1], saved[2], saved[3]);
    return {d.x, d.y, d.mix, d.write};
  }
};

// With p = sqrt(D) / r x W, r = max(|x|, 1e-12):
//   dx = sqrt(D) / r dp W^T - x / r^2 <dp, p>   (the second term where r = |x|)
//   dW = (sqrt(D) / r x)^T dp
struct NormalisedProduct : torch::autograd::Function<NormalisedProduct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight) {
    const Tensor wide = x.to(weight.scalar_type());
    const Tensor length = wide.norm(2, -1, true).clamp_min(1e-12);
    const Tensor p = matrix_product(wide, weight).mul_(std::sqrt(double(x.size(1))) / length);
    ctx->save_for_backward({x, weight, length, p});
    return p;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &length = saved[2], &p = saved[3];
    const Tensor wide = x.to(weight.scalar_type());
    const Tensor scaled = grads[0] * (std::sqrt(double(x.size(1))) / length);
    Tensor dx, dweight;
    if (ctx->needs_input_grad(0)) {
      const Tensor along = (grads[0] * p).sum(-1, true) / (length * length);
      dx = matrix_product(scaled, weight.t())
               .sub_(wide * along * (length > 1e-12))
               .to(x.scalar_type());
    }
    if (ctx->needs_input_grad(1)) dweight = matrix_product(wide.t(), scaled);
    return {dx, dweight};
  }
};

void check(const char* op, const Tensor& x, const Tensor& weights_BTn) {
  STRATA_CHECK(x.dim() == 3 && weights_BTn.dim() == 3 && weights_BTn.size(-1) > 0 &&
                   x.sizes().slice(0, 2) == weights_BTn.sizes().slice(0, 2) &&
                   x.size(-1) % weights_BTn.size(-1) == 0,
               cat(op, ": coefficients ", shape_text(weights_BTn.sizes()), " do not fit streams ",
                   shape_text(x.sizes())));
}

}  // namespace streams_detail

Tensor expand_streams(const Tensor& x, int64_t streams) { return x.repeat({1, 1, streams}); }

Tensor sum_streams(const Tensor& x, int64_t streams) {
  const auto acc = accumulate_dtype(x.scalar_type());
  return x.view({x.size(0), x.size(1), streams, x.size(2) / streams})
      .sum(2, false, acc)
      .to(x.scalar_type());
}

Tensor read_streams_composite(const Tensor& x, const Tensor& read) {
  const int64_t n = read.size(-1);
  const Tensor wide = x.view({x.size(0), x.size(1), n, x.size(2) / n}).to(read.scalar_type());
  return at::matmul(read.unsqueeze(2), wide).squeeze(2).to(x.scalar_type());
}

Tensor read_streams(const Tensor& x, const Tensor& read) {
  streams_detail::check("read_streams", x, read);
  if (!has_cpu_kernel(x)) return read_streams_composite(x, read);
  return streams_detail::Read::apply(x.contiguous(), read.contiguous());
}

Tensor write_streams_composite(const Tensor& x, const Tensor& y, const Tensor& mix,
                               const Tensor& write) {
  const int64_t n = write.size(-1);
  const auto acc = write.scalar_type();
  const Tensor wide = x.view({x.size(0), x.size(1), n, x.size(2) / n}).to(acc);
  const Tensor mixed = at::matmul(mix.transpose(2, 3), wide);
  return (mixed + write.unsqueeze(3) * y.to(acc).unsqueeze(2)).to(x.scalar_type()).flatten(2);
}

Tensor write_streams(const Tensor& x, const Tensor& y, const Tensor& mix, const Tensor& write) {
  streams_detail::check("write_streams", x, write);
  if (!has_cpu_kernel(x)) return write_streams_composite(x, y, mix, write);
  return streams_detail::Write::apply(x.contiguous(), y.contiguous(), mix.contiguous(),
                                      write.contiguous());
}

Tensor normalised_product(const Tensor& x, const Tensor& weight) {
  STRATA_CHECK(weight.dim() == 2 && weight.size(0) == x.size(-1),
               cat("normalised_product: weight ", shape_text(weight.sizes()), " does not fit x ",
                   shape_text(x.sizes())));
  Shape shape = x.sizes().vec();
  shape.back() = weight.size(1);
  return streams_detail::NormalisedProduct::apply(x.reshape({-1, x.size(-1)}), weight)
      .reshape(shape);
}

}  // namespace strata::ops
