// The differentiable collectives over tp: the only autograd Function that communicates. Each is a
// pair of plain moves, one for the value and one for its gradient (the conversion table of
// parallel-runtime.md 2).
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "core/text.h"
#include "parallel/nn/module.h"

namespace strata {
namespace tp_ops_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Move : int64_t { Identity, AllReduce, AllGather, ReduceScatter, TakeOwn };

struct Conversion {
  Move forward, backward;
  int64_t dim = 0;
  SiteOp forward_site, backward_site;
};

Tensor run(Move move, const Tensor& x, int64_t dim, const ParallelLayout& layout, SiteOp site) {
  Communicator& tp = layout.tp();
  switch (move) {
    case Move::Identity:
      return x.view_as(x);
    case Move::AllReduce: {
      Tensor y = x.contiguous();
      if (y.is_same(x)) y = x.clone();  // the caller's tensor is never changed
      tp.all_reduce(y, ReduceOp::Sum, layout.site(site)).wait();
      return y;
    }
    case Move::AllGather: {
      Tensor in = x.contiguous();
      Shape shape = in.sizes().vec();
      shape[0] *= tp.size();
      Tensor out = at::empty(shape, in.options());
      tp.all_gather(out, in, layout.site(site)).wait();
      return dim == 0 ? out : at::cat(out.chunk(tp.size(), 0), dim);
    }
    case Move::ReduceScatter: {
      STRATA_CHECK(x.size(dim) % tp.size() == 0,
                   cat("reduce_scatter of extent ", x.size(dim), " over ", tp.size(), " ranks"));
      Tensor in = dim == 0 ? x.contiguous() : at::cat(x.chunk(tp.size(), dim), 0);
      Shape shape = in.sizes().vec();
      shape[0] /= tp.size();
      Tensor out = at::empty(shape, in.options());
      tp.reduce_scatter(out, in, layout.site(site)).wait();
      return out;
    }
    case Move::TakeOwn: {
      STRATA_CHECK(x.size(dim) % tp.size() == 0,
                   cat("a part of extent ", x.size(dim), " for each of ", tp.size(), " ranks"));
      const int64_t part = x.size(dim) / tp.size();
      return x.narrow(dim, tp.rank() * part, part).contiguous();
    }
  }
  return x;
}

struct Context : torch::CustomClassHolder {
  Context(const Conversion& c, const ParallelLayout& l) : conversion(c), layout(l) {}
  Conversion conversion;
  ParallelLayout layout;
};

struct Convert : torch::autograd::Function<Convert> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x,
                        const c10::intrusive_ptr<Context>& how) {
    ctx->saved_data["how"] = c10::IValue::make_capsule(how);
    return run(how->conversion.forward, x, how->conversion.dim, how->layout,
               how->conversion.forward_site);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto capsule = ctx->saved_data["how"].toCapsule();
    const auto& how = static_cast<const Context&>(*capsule);
    return {run(how.conversion.backward, grads[0], how.conversion.dim, how.layout,
                how.conversion.backward_site),
            Tensor()};
  }
};

Tensor convert(const Tensor& x, const Conversion& conversion, const ParallelLayout& layout) {
  if (layout.tp_size() == 1) return x;
  return Convert::apply(x, c10::make_intrusive<Context>(conversion, layout));
}

}  // namespace tp_ops_detail

using tp_ops_detail::Conversion;
using tp_ops_detail::Move;

Tensor region_enter(const Tensor& x, const ParallelLayout& layout) {
  const bool sp = layout.strategy().sequence_parallel;
  return tp_ops_detail::convert(
      x,
      sp ? Conversion{Move::AllGather, Move::ReduceScatter, 1, SiteOp::RegionEnter,
                      SiteOp::RegionEnter}
         : Conversion{Move::Identity, Move::AllReduce, 0, SiteOp::RegionEnter, SiteOp::RegionEnter},
      layout);
}

Tensor region_exit(const Tensor& partial, const ParallelLayout& layout, SiteOp op) {
  const bool sp = layout.strategy().sequence_parallel;
  return tp_ops_detail::convert(partial,
                                sp ? Conversion{Move::ReduceScatter, Move::AllGather, 1, op, op}
                                   : Conversion{Move::AllReduce, Move::Identity, 0, op, op},
                                layout);
}

Tensor identical_enter(const Tensor& x, const ParallelLayout& layout) {
  if (!layout.strategy().sequence_parallel) return x;
  return tp_ops_detail::convert(
      x, {Move::AllGather, Move::TakeOwn, 1, SiteOp::RegionEnter, SiteOp::RegionEnter}, layout);
}

Tensor identical_exit(const Tensor& y, const ParallelLayout& layout) {
  if (!layout.strategy().sequence_parallel) return y;
  return tp_ops_detail::convert(
      y, {Move::TakeOwn, Move::AllGather, 1, SiteOp::RegionExit, SiteOp::RegionExit}, layout);
}

Tensor complete_sum(const Tensor& partial, const ParallelLayout& layout) {
  return tp_ops_detail::convert(
      partial, {Move::AllReduce, Move::Identity, 0, SiteOp::RegionExit, SiteOp::RegionExit},
      layout);
}

Tensor TensorParallelOps::all_reduce(const Tensor& x) const {
  return tp_ops_detail::convert(
      x, {Move::AllReduce, Move::AllReduce, 0, SiteOp::RegionEnter, SiteOp::RegionEnter}, layout_);
}
Tensor TensorParallelOps::all_gather(const Tensor& x, int64_t dim) const {
  return tp_ops_detail::convert(
      x, {Move::AllGather, Move::ReduceScatter, dim, SiteOp::RegionEnter, SiteOp::RegionEnter},
      layout_);
}
Tensor TensorParallelOps::reduce_scatter(const Tensor& x, int64_t dim) const {
  return tp_ops_detail::convert(
      x, {Move::ReduceScatter, Move::AllGather, dim, SiteOp::RegionExit, SiteOp::RegionExit},
      layout_);
}

}  // namespace strata
