#include "optim/distributed_optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "optim/exact_norm.h"
#include "optim/grad_norm.h"

namespace strata {

struct DistributedOptimizer::Impl {
  // One parameter's slice with everything its rule needs.
  struct Item {
    OwnedSlice slice;
    const UpdateRule* rule;
    std::vector<StateSlot> slots;
    std::vector<Tensor> state;
    Tensor master;  // fp32 beside 16-bit values, else undefined

    // What the rule updates, flat.
    const Tensor& weights() const { return master.defined() ? master : slice.value; }
  };

  ParallelManager& model;
  std::vector<std::unique_ptr<UpdateRule>> rules;
  OptimizerOptions options;
  std::vector<Item> items;
  bool audited = false;
  double scale = 1;  // 2^k / N of the last step

  const UpdateRule& rule_for(const ParamMeta& meta) const { return *rules.front(); }
};

DistributedOptimizer::DistributedOptimizer(ParallelManager& model,
                                           std::vector<std::unique_ptr<UpdateRule>> rules,
                                           OptimizerOptions options)
    : impl_(new Impl{model, std::move(rules), options, {}, false, 1}) {
  for (const OwnedSlice& slice : model.owned_slices()) {
    Impl::Item item{slice, &impl_->rule_for(slice.parameter->meta), {}, {}, Tensor()};
    const at::ScalarType stored = slice.value.scalar_type(), wide = accumulate_dtype(stored);
    const auto on = slice.value.options().dtype(wide);
    STRATA_CHECK(item.rule->needs() == UpdateRule::Needs::Slice,
                 cat(item.rule->name(), ": rules on whole matrices are not part of this version"));
    item.slots = item.rule->state_slots({slice.update.size()}, wide);
    for (const StateSlot& slot : item.slots)
      item.state.push_back(at::zeros(slot.shape, on.dtype(slot.dtype)));
    if (stored != wide) item.master = slice.value.to(wide);
    impl_->items.push_back(std::move(item));
  }
}

DistributedOptimizer::~DistributedOptimizer() = default;

StepReport DistributedOptimizer::step(const StepInfo& info, const StepLoss& loss, bool stop) {
  at::NoGradGuard no_grad;
  Impl& self = *impl_;
  const NormShare share = norm_share(self.model.owned_slices());
  // One control sum per step: everything the ranks have to agree on.
  enum { kSquares, kElements, kNonFinite, kLoss, kCounted, kStop, kSize };
  Tensor control = at::zeros({kSize}, at::TensorOptions().dtype(at::kDouble));
  double* c = control.data_ptr<double>();
  const bool finite = std::isfinite(share.sum_of_squares) && std::isfinite(loss.loss_sum);
  c[kSquares] = finite ? share.sum_of_squares : 0;
  c[kElements] = share.elements;
  c[kNonFinite] = finite ? 0 : 1;
  c[kLoss] = finite ? loss.loss_sum : 0;
  c[kCounted] = static_cast<double>(loss.counted);
  c[kStop] = stop ? 1 : 0;
  Communicator& job = self.model.pool().job();
  job.all_reduce(control, ReduceOp::Sum, {0, SiteOp::Control}).wait_host();

  if (self.options.audit || !self.audited) {
    STRATA_CHECK(static_cast<int64_t>(c[kElements]) == self.model.logical_elements(),
                 cat("the ranks count ", static_cast<int64_t>(c[kElements]),
                     " gradient elements, the model has ", self.model.logical_elements()));
    self.audited = true;
  }

  StepReport report;
  report.counted = static_cast<int64_t>(c[kCounted]);
  report.stop = c[kStop] > 0;
  report.skipped = c[kNonFinite] > 0 || report.counted == 0;
  self.scale = report.counted == 0 ? 0 : std::ldexp(1.0, self.model.loss_exponent()) / c[kCounted];
  if (c[kNonFinite] > 0) {
    report.loss = report.grad_norm = std::nan("");
    report.non_finite = find_non_finite(self.model, loss);
    return report;
  }
  report.loss = report.counted == 0 ? 0 : c[kLoss] / c[kCounted];
  const double squares =
      self.options.exact_norm
          ? exact_sum_of_squares(self.model.owned_slices(), self.model.logical_elements(), job)
          : c[kSquares];
  report.grad_norm = std::sqrt(squares) * self.scale;
  if (report.skipped) return report;

  double factor = self.scale;
  if (self.options.max_grad_norm > 0)
    factor *= std::min(1.0, self.options.max_grad_norm / (report.grad_norm + 1e-6));
  for (Impl::Item& item : self.items) {
    const Parameter& p = *item.slice.parameter;
    const Tensor& weights = item.weights();
    Piece piece{.name = p.meta.name,
                .weights = weights,
                .grad = item.slice.grad,
                .rounded = item.master.defined() ? item.slice.value : Tensor(),
                .state = item.state,
                .grad_scale = factor,
                .lr = info.lr * p.meta.lr_scale,
                .decay = p.meta.weight_decay ? info.decay * item.rule->weight_decay() : 0};
    item.rule->update({&piece, 1}, info.step);
  }
  self.model.weights_changed();
  return report;
}

void DistributedOptimizer::load_masters(const WeightSource& source) {
  at::NoGradGuard no_grad;
  for (Impl::Item& item : impl_->items) {
    if (!item.master.defined()) continue;
    for_boxes(item.slice, item.master, [&](const Box& box, Tensor part) {
      part.copy_(source.read(*item.slice.parameter, box, part.scalar_type()));
    });
  }
}

void DistributedOptimizer::for_pieces(
    const std::function<void(const std::string&, const OwnedSlice&, const Tensor&)>& f) const {
  for (const Impl::Item& item : impl_->items) {
    f("master", item.slice, item.weights());
    for (size_t s = 0; s < item.slots.size(); ++s) f(item.slots[s].name, item.slice, item.state[s]);
  }
}

void DistributedOptimizer::save(CheckpointWriter& out) const {
  for_pieces([&](const std::string& slot, const OwnedSlice& slice, const Tensor& values) {
    const ParamMeta& meta = slice.parameter->meta;
    const std::string path =
        slot == "master" ? cat("/model/", meta.name) : cat("/optim/", meta.name, "/", slot);
    for_boxes(slice, values,
              [&](const Box& box, const Tensor& part) { out.add(path, meta.logical, box, part); });
  });
}

void DistributedOptimizer::load(const CheckpointReader& in, Reset reset) {
  at::NoGradGuard no_grad;
  std::vector<std::string> missing;
  for (const Impl::Item& item : impl_->items) {
    for (const StateSlot& slot : item.slots) {
      const std::string path = cat("/optim/", item.slice.parameter->meta.name, "/", slot.name);
      if (reset == Reset::None && !in.contains(path)) missing.push_back(path);
    }
  }
  if (!missing.empty()) {
    throw CheckpointError(cat(
        "the checkpoint has no optimizer state ", missing[0],
        missing.size() > 1 ? cat(" and ", missing.size() - 1, " more") : "",
        "; it was written by another optimizer. ckpt.reset_optim = all starts the state afresh"));
  }
  for (Impl::Item& item : impl_->items) {
    const Parameter& p = *item.slice.parameter;
    for_boxes(item.slice, item.weights(), [&](const Box& box, Tensor part) {
      part.copy_(in.read(cat("/model/", p.meta.name), box));
    });
    if (item.master.defined()) item.slice.value.copy_(item.master);
    for (size_t s = 0; s < item.slots.size(); ++s) {
      if (reset == Reset::All) {
        item.state[s].zero_();
        continue;
      }
      for_boxes(item.slice, item.state[s], [&](const Box& box, Tensor part) {
        part.copy_(in.read(cat("/optim/", p.meta.name, "/", item.slots[s].name), box));
      });
    }
  }
}

void DistributedOptimizer::load_converted(const WeightSource& weights,
                                          const CheckpointReader& state) {
  at::NoGradGuard no_grad;
  for (Impl::Item& item : impl_->items) {
    const Parameter& p = *item.slice.parameter;
    const Tensor& values = item.weights();
    for_boxes(item.slice, values, [&](const Box& box, Tensor part) {
      part.copy_(weights.read(p, box, part.scalar_type()));
    });
    if (item.master.defined()) item.slice.value.copy_(item.master);
    for (size_t s = 0; s < item.slots.size(); ++s) {
      const std::string path = cat("/optim/", p.meta.name, "/", item.slots[s].name);
      const auto stored = state.tensors().find(path);
      if (stored == state.tensors().end() || stored->second.shape != p.meta.logical) {
        item.state[s].zero_();
        continue;
      }
      for_boxes(item.slice, item.state[s],
                [&](const Box& box, Tensor part) { part.copy_(state.read(path, box)); });
    }
  }
}

std::string DistributedOptimizer::rule_of(const std::string& parameter) const {
  for (const Impl::Item& item : impl_->items) {
    if (item.slice.parameter->meta.name == parameter) return item.rule->name();
  }
  return {};
}

int64_t DistributedOptimizer::state_bytes() const {
  int64_t total = 0;
  for (const Impl::Item& item : impl_->items) {
    if (item.master.defined()) total += item.master.numel() * item.master.element_size();
    for (const Tensor& s : item.state) total += s.numel() * s.element_size();
  }
  return total;
}

double DistributedOptimizer::gradient_scale() const { return impl_->scale; }

}  // namespace strata
