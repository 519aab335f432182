#include "parallel/engine/borders.h"

#include <ATen/ops/empty.h>

#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace borders_detail {

bool same_layout(const LayerStrategy& a, const LayerStrategy& b) {
  const bool cut_a = a.sequence_parallel && a.tp > 1, cut_b = b.sequence_parallel && b.tp > 1;
  return a.dp == b.dp && a.tp == b.tp && cut_a == cut_b;
}

// The piece of a tensor that holds `whole`, both in numbers of the micro-batch.
Tensor piece_of(const Tensor& x, const ActivationPart& whole, const ActivationPart& piece) {
  return x.narrow(0, piece.rows.begin - whole.rows.begin, piece.rows.size())
      .narrow(1, piece.time.begin - whole.time.begin, piece.time.size());
}

Tensor run(const RelayoutPlan& plan, const Tensor& x, Communicator& stage, Site site) {
  STRATA_CHECK(
      x.dim() >= 2 && x.size(0) == plan.from.rows.size() && x.size(1) == plan.from.time.size(),
      cat("relayout of ", shape_text(x.sizes()), ", expected [", plan.from.rows.size(), ", ",
          plan.from.time.size(), ", ...]"));
  Shape shape = x.sizes().vec();
  shape[0] = plan.to.rows.size();
  shape[1] = plan.to.time.size();
  Tensor out = at::empty(shape, x.options());
  std::vector<Transfer> transfers;
  std::vector<std::pair<Tensor, Tensor>> arrivals;  // into, from
  for (const RelayoutPiece& piece : plan.sends) {
    if (piece.peer == plan.rank) continue;
    transfers.push_back(
        {Transfer::Kind::Send, piece_of(x, plan.from, piece.part).contiguous(), piece.peer});
  }
  for (const RelayoutPiece& piece : plan.receives) {
    Tensor to = piece_of(out, plan.to, piece.part);
    if (piece.peer == plan.rank) {
      to.copy_(piece_of(x, plan.from, piece.part));
      continue;
    }
    Tensor buffer = to.is_contiguous() ? to : at::empty(to.sizes(), to.options());
    if (!buffer.is_same(to)) arrivals.emplace_back(to, buffer);
    transfers.push_back({Transfer::Kind::Recv, buffer, piece.peer});
  }
  stage.exchange(transfers, site).wait();
  for (auto& [to, from] : arrivals) to.copy_(from);
  return out;
}

}  // namespace borders_detail

ActivationPart Borders::part(int layer, const MicrobatchShape& shape) const {
  return activation_part(plan_->layers[static_cast<size_t>(layer)], stage_->rank(), shape.rows,
                         shape.time, shape.whole_rows);
}

Tensor Borders::enter(int layer, const Tensor& x, const MicrobatchShape& shape) {
  return x.defined() ? move(layer - 1, layer, x, shape, layer) : x;
}

Tensor Borders::leave(int layer, const Tensor& dx, const MicrobatchShape& shape) {
  return dx.defined() ? move(layer, layer - 1, dx, shape, layer) : dx;
}

Tensor Borders::move(int from, int to, const Tensor& x, const MicrobatchShape& shape, int layer) {
  const LayerStrategy &a = plan_->layers[static_cast<size_t>(from)],
                      &b = plan_->layers[static_cast<size_t>(to)];
  if (borders_detail::same_layout(a, b)) return x;
  auto& plan = plans_[{from, to, shape}];
  if (!plan) {
    std::vector<ActivationPart> parts_from, parts_to;
    for (int r = 0; r < stage_->size(); ++r) {
      parts_from.push_back(activation_part(a, r, shape.rows, shape.time, shape.whole_rows));
      parts_to.push_back(activation_part(b, r, shape.rows, shape.time, shape.whole_rows));
    }
    plan =
        std::make_unique<const RelayoutPlan>(relayout_plan(parts_from, parts_to, stage_->rank()));
  }
  if (plan->nothing()) return x;
  return borders_detail::run(*plan, x, *stage_, {static_cast<uint16_t>(layer), SiteOp::Relayout});
}

}  // namespace strata
