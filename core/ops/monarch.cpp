#include "core/ops/monarch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/deferred.h"
#include "core/ops/matrix_product.h"
#include "core/ops/monarch_cpu.h"
#include "core/text.h"

namespace strata::ops {

namespace monarch_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor as_rows(const Tensor& x) {
  return x.dim() == 2
             ? x
             : x.reshape({c10::multiply_integers(x.sizes().slice(0, x.dim() - 1)), x.size(-1)});
}

Tensor padded(const Tensor& x, int64_t features) {
  return x.size(-1) == features ? x : at::constant_pad_nd(x, {0, features - x.size(-1)});
}

// Block-diagonal product of rows: x [N, K P] and w [K, S, P] give [N, K S]. Each block is one
// product of matrices that lie inside larger ones, without copies.
Tensor contiguous_blocks(const Tensor& x, const Tensor& w, bool transposed) {
  const int64_t blocks = w.size(0), in = w.size(transposed ? 1 : 2),
                out = w.size(transposed ? 2 : 1);
  Tensor y = at::empty({x.size(0), blocks * out}, x.options());
  for (int64_t k = 0; k < blocks; ++k) {
    matrix_product_out(y.narrow(1, k * out, out), x.narrow(1, k * in, in),
                       transposed ? w[k] : w[k].t());
  }
  return y;
}

// Gradient [K, S, P] of the blocks from dy [N, K S] and x [N, K P].
Tensor contiguous_gradient(const Tensor& dy, const Tensor& x, int64_t blocks) {
  const int64_t in = x.size(1) / blocks, out = dy.size(1) / blocks;
  Tensor dw = at::empty({blocks, out, in}, x.options());
  for (int64_t k = 0; k < blocks; ++k) {
    matrix_product_out(dw[k], dy.narrow(1, k * out, out).t(), x.narrow(1, k * in, in));
  }
  return dw;
}

Tensor split_groups(const Tensor& x, int64_t groups) {
  if (has_cpu_kernel(x)) return monarch_cpu::split_groups(x, groups);
  return x.view({x.size(0), x.size(1) / groups, groups}).permute({2, 0, 1}).contiguous();
}
Tensor join_groups(const Tensor& x, int64_t features) {
  if (has_cpu_kernel(x)) return monarch_cpu::join_groups(x, features);
  return x.permute({1, 2, 0})
      .reshape({x.size(1), x.size(2) * x.size(0)})
      .narrow(1, 0, features)
      .contiguous();
}

// Weight gradients now, or when the schedule wants them (deferred.h).
template <class Make>
Tensor weight_gradient(const Tensor& weight, const Make& make) {
  DeferredGradients* later = weight.is_leaf() ? deferred_gradients() : nullptr;
  if (later == nullptr) return make();
  later->add([weight, make] { accumulate_gradient(weight, make()); });
  return {};
}

struct Monarch : torch::autograd::Function<Monarch> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w1, const Tensor& w2,
                        int64_t out_features) {
    const auto dtype = x.scalar_type();
    const Tensor rows = padded(as_rows(x), w1.size(0) * w1.size(2));
    const Tensor a = contiguous_blocks(rows, w1.to(dtype), false);
    const Tensor u = split_groups(a, w2.size(0));  // [L, N, R]
    const Tensor y = matrix_products(u, w2.to(dtype).transpose(1, 2));
    ctx->save_for_backward({x, u, w1, w2});
    Shape shape = x.sizes().vec();
    shape.back() = out_features;
    return at::_unsafe_view(join_groups(y, out_features), shape);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &u = saved[1], &w1 = saved[2], &w2 = saved[3];
    const auto dtype = x.scalar_type();
    const Tensor rows = padded(as_rows(x), w1.size(0) * w1.size(2));
    const Tensor g =
        split_groups(padded(as_rows(grads[0]), w2.size(0) * w2.size(1)), w2.size(0)).detach();
    Tensor dx, dw1, dw2;
    if (ctx->needs_input_grad(2)) {
      dw2 = weight_gradient(w2, [g, u] { return matrix_products(g.transpose(1, 2), u); });
    }
    if (!ctx->needs_input_grad(0) && !ctx->needs_input_grad(1)) return {dx, dw1, dw2, Tensor()};
    const Tensor da = join_groups(matrix_products(g, w2.to(dtype)), w1.size(0) * w1.size(1));
    if (ctx->needs_input_grad(1)) {
      const int64_t blocks = w1.size(0);
      dw1 =
          weight_gradient(w1, [da, rows, blocks] { return contiguous_gradient(da, rows, blocks); });
    }
    if (ctx->needs_input_grad(0)) {
      dx = contiguous_blocks(da, w1.to(dtype), true).narrow(1, 0, x.size(-1)).reshape(x.sizes());
    }
    return {dx, dw1, dw2, Tensor()};
  }
};

struct BlockDiagonal : torch::autograd::Function<BlockDiagonal> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w,
                        int64_t out_features) {
    const Tensor rows = padded(as_rows(x), w.size(0) * w.size(2));
    Tensor y = contiguous_blocks(rows, w.to(x.scalar_type()), false);
    if (y.size(1) != out_features) y = y.narrow(1, 0, out_features).contiguous();
    ctx->save_for_backward({x, w});
    Shape shape = x.sizes().vec();
    shape.back() = out_features;
    return at::_unsafe_view(y, shape);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1];
    const Tensor rows = padded(as_rows(x), w.size(0) * w.size(2)).detach();
    const Tensor g = padded(as_rows(grads[0]), w.size(0) * w.size(1)).detach();
    Tensor dx, dw;
    if (ctx->needs_input_grad(1)) {
      const int64_t blocks = w.size(0);
      dw = weight_gradient(w, [g, rows, blocks] { return contiguous_gradient(g, rows, blocks); });
    }
    if (ctx->needs_input_grad(0)) {
      dx = contiguous_blocks(g, w.to(x.scalar_type()), true)
               .narrow(1, 0, x.size(-1))
               .reshape(x.sizes());
    }
    return {dx, dw, Tensor()};
  }
};

void check(const char* op, const Tensor& x, int64_t in, int64_t out_features, int64_t out) {
  STRATA_CHECK(
      x.dim() >= 1 && x.size(-1) <= in && out_features <= out && out_features > 0,
      cat(op, ": ", x.size(-1), " features into ", in, ", ", out_features, " out of ", out));
}

}  // namespace monarch_detail

Tensor monarch(const Tensor& x, const Tensor& w1_KQP, const Tensor& w2_LSR, int64_t out_features) {
  using namespace monarch_detail;
  STRATA_CHECK(w1_KQP.dim() == 3 && w2_LSR.dim() == 3 &&
                   w1_KQP.size(0) * w1_KQP.size(1) == w2_LSR.size(0) * w2_LSR.size(2),
               cat("monarch: factors ", shape_text(w1_KQP.sizes()), " and ",
                   shape_text(w2_LSR.sizes()), " do not meet"));
  check("monarch", x, w1_KQP.size(0) * w1_KQP.size(2), out_features,
        w2_LSR.size(0) * w2_LSR.size(1));
  return Monarch::apply(x, w1_KQP, w2_LSR, out_features);
}

Tensor block_diagonal(const Tensor& x, const Tensor& w_KSP, int64_t out_features) {
  using namespace monarch_detail;
  STRATA_CHECK(w_KSP.dim() == 3, "block_diagonal: one weight [blocks, out, in]");
  check("block_diagonal", x, w_KSP.size(0) * w_KSP.size(2), out_features,
        w_KSP.size(0) * w_KSP.size(1));
  return BlockDiagonal::apply(x, w_KSP, out_features);
}

Tensor monarch_composite(const Tensor& x, const Tensor& w1_KQP, const Tensor& w2_LSR,
                         int64_t out_features) {
  using namespace monarch_detail;
  const int64_t K = w1_KQP.size(0), P = w1_KQP.size(2), L = w2_LSR.size(0), R = w2_LSR.size(2);
  const auto dtype = x.scalar_type();
  const Tensor rows = padded(as_rows(x), K * P);
  const int64_t N = rows.size(0);
  const Tensor a = at::bmm(rows.view({N, K, P}).transpose(0, 1), w1_KQP.to(dtype).transpose(1, 2));
  const Tensor u = a.transpose(0, 1).reshape({N, R, L}).permute({2, 0, 1});
  const Tensor y = at::bmm(u, w2_LSR.to(dtype).transpose(1, 2));
  Shape shape = x.sizes().vec();
  shape.back() = out_features;
  return y.permute({1, 2, 0})
      .reshape({N, w2_LSR.size(1) * L})
      .narrow(1, 0, out_features)
      .reshape(shape);
}

Tensor block_diagonal_composite(const Tensor& x, const Tensor& w_KSP, int64_t out_features) {
  using namespace monarch_detail;
  const int64_t K = w_KSP.size(0), P = w_KSP.size(2);
  const Tensor rows = padded(as_rows(x), K * P);
  const int64_t N = rows.size(0);
  const Tensor y =
      at::bmm(rows.view({N, K, P}).transpose(0, 1), w_KSP.to(x.scalar_type()).transpose(1, 2));
  Shape shape = x.sizes().vec();
  shape.back() = out_features;
  return y.transpose(0, 1)
      .reshape({N, K * w_KSP.size(1)})
      .narrow(1, 0, out_features)
      .reshape(shape);
}

Tensor shuffle_features(const Tensor& x, int64_t groups, int64_t features) {
  using namespace monarch_detail;
  Shape shape = x.sizes().vec();
  shape.back() = features / groups;
  shape.insert(shape.end() - 1, groups);
  Shape flat = x.sizes().vec();
  flat.back() = features;
  return padded(x, features).reshape(shape).transpose(-1, -2).reshape(flat);
}

MonarchShape monarch_shape(int64_t in, int64_t out, int64_t blocks) {
  MonarchShape s{blocks, (in + blocks - 1) / blocks, (out + blocks - 1) / blocks, 0};
  s.middle_block = std::min(s.in_block, s.out_block);
  return s;
}

}  // namespace strata::ops
