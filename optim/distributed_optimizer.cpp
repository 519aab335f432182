#include "optim/distributed_optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "optim/exact_norm.h"
#include "optim/grad_norm.h"
#include "optim/optimizer_state.h"
#include "parallel/engine/matrix_exchange.h"

namespace strata {

struct DistributedOptimizer::Impl {
  ParallelManager& model;
  std::shared_ptr<const RuleSet> rules;
  OptimizerOptions options;
  OptimizerState state;
  MatrixExchange exchange;
  bool audited = false;
  double scale = 1;  // 2^k / N of the last step

  Impl(ParallelManager& m, std::shared_ptr<const RuleSet> r, OptimizerOptions o)
      : model(m),
        rules(std::move(r)),
        options(o),
        state(m, *rules),
        exchange(m.matrices().matrices, o.exchange_bytes) {}

  void update(const std::vector<UpdateItem*>& items, const StepInfo& info, double slice_scale,
              double matrix_scale);
  // Of shared matrices, which all ranks of `sharing` have in the same order.
  void update_shared(const std::vector<UpdateItem*>& items, Communicator& sharing,
                     const StepInfo& info, double scale);
  std::map<std::pair<size_t, int64_t>, std::vector<Piece>> batches(
      const std::vector<UpdateItem*>& items, const StepInfo& info, double slice_scale,
      double matrix_scale);
  void update_all(const StepInfo& info, double slice_scale, double matrix_scale);
  at::ScalarType value_wire(size_t round) const;
};

namespace distributed_optimizer_detail {

// One control sum per step: everything the ranks have to agree on.
enum Control { kSquares, kClipped, kElements, kNonFinite, kLoss, kCounted, kStop, kControls };

double clip_factor(double max_norm, double norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace distributed_optimizer_detail

using namespace distributed_optimizer_detail;

void DistributedOptimizer::prepare(ManagerOptions& options, const RuleSet& rules) {
  options.matrix_cost = rules.matrix_cost();
  options.matrix_sharing = rules.matrix_sharing();
}

DistributedOptimizer::DistributedOptimizer(ParallelManager& model,
                                           std::shared_ptr<const RuleSet> rules,
                                           OptimizerOptions options)
    : impl_(new Impl(model, std::move(rules), options)) {}

DistributedOptimizer::~DistributedOptimizer() = default;

StepReport DistributedOptimizer::step(const StepInfo& info, const StepLoss& loss, bool stop) {
  at::NoGradGuard no_grad;
  Impl& self = *impl_;
  const bool apart = self.options.clip == ClipScope::Companion && self.rules->size() > 1;
  const NormShare share = norm_share(self.model.owned_slices());
  const double clipped = apart ? norm_share(self.state.companion_slices()).sum_of_squares : 0;
  Tensor control = at::zeros({kControls}, at::TensorOptions().dtype(at::kDouble));
  double* c = control.data_ptr<double>();
  const bool finite = std::isfinite(share.sum_of_squares) && std::isfinite(loss.loss_sum);
  c[kSquares] = finite ? share.sum_of_squares : 0;
  c[kClipped] = finite ? clipped : 0;
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
  const auto squares = [&](std::span<const OwnedSlice> slices, double sum) {
    return self.options.exact_norm
               ? exact_sum_of_squares(slices, self.model.logical_elements(), job)
               : sum;
  };
  report.grad_norm = std::sqrt(squares(self.model.owned_slices(), c[kSquares])) * self.scale;
  if (report.skipped) return report;

  const double max_norm = self.options.max_grad_norm;
  if (apart) {
    const double norm = std::sqrt(squares(self.state.companion_slices(), c[kClipped])) * self.scale;
    self.update_all(info, self.scale * clip_factor(max_norm, norm), self.scale);
  } else {
    const double factor = self.scale * clip_factor(max_norm, report.grad_norm);
    self.update_all(info, factor, factor);
  }
  self.model.weights_changed();
  return report;
}

// Pieces of a rule whose state is of equal age go together.
std::map<std::pair<size_t, int64_t>, std::vector<Piece>> DistributedOptimizer::Impl::batches(
    const std::vector<UpdateItem*>& items, const StepInfo& info, double slice_scale,
    double matrix_scale) {
  std::map<std::pair<size_t, int64_t>, std::vector<Piece>> out;
  for (UpdateItem* item : items) {
    item->collect_own_gradient();
    if (item->updates < 0) item->updates = info.step;
    out[{item->rule, item->updates++}].push_back(item->piece(
        *rules, item->slice != nullptr ? slice_scale : matrix_scale, info.lr, info.decay));
  }
  return out;
}

void DistributedOptimizer::Impl::update(const std::vector<UpdateItem*>& items, const StepInfo& info,
                                        double slice_scale, double matrix_scale) {
  for (auto& [key, pieces] : batches(items, info, slice_scale, matrix_scale))
    rules->rule(key.first).update(pieces, key.second);
  for (UpdateItem* item : items) item->hand_back_own_values();
}

void DistributedOptimizer::Impl::update_shared(const std::vector<UpdateItem*>& items,
                                               Communicator& sharing, const StepInfo& info,
                                               double scale) {
  const SumOverSlabs sum = [&](const Tensor& values) {
    sharing.all_reduce(values, ReduceOp::Sum, {0, SiteOp::MatrixExchange}).wait();
  };
  for (auto& [key, pieces] : batches(items, info, scale, scale))
    rules->rule(key.first).update_shared(pieces, key.second, sum);
  for (UpdateItem* item : items) item->hand_back_own_values();
}

void DistributedOptimizer::Impl::update_all(const StepInfo& info, double slice_scale,
                                            double matrix_scale) {
  Communicator& stage = model.stage_ranks();
  const auto gather = [&](size_t round) {
    return exchange.gather(
        round, stage, accumulate_dtype(value_wire(round)),
        [&](size_t m, const Box& box) { return state.model_part(m, box, true); },
        [&](size_t m, const Box& box) {
          UpdateItem& item = *state.owner_of(m);
          return item.part_of(item.grad, box);
        });
  };
  const auto scatter = [&](size_t round) {
    return exchange.scatter(
        round, stage, value_wire(round),
        [&](size_t m, const Box& box) {
          UpdateItem& item = *state.owner_of(m);
          return item.part_of(item.rounded.defined() ? item.rounded : item.weights, box);
        },
        [&](size_t m, const Box& box) { return state.model_part(m, box, false); });
  };
  const size_t rounds = exchange.rounds().size();
  MatrixExchange::Transit coming;
  if (rounds > 0) coming = gather(0);

  std::vector<UpdateItem*> here;
  std::map<int, std::vector<UpdateItem*>> shared;  // by tp: the same order on all ranks of a stage
  for (UpdateItem& item : state.slices()) here.push_back(&item);
  for (UpdateItem& item : state.matrices()) {
    if (item.owned->shared()) {
      shared[item.owned->owners].push_back(&item);
    } else if (!exchange.travels(item.matrix)) {
      // Whole here, but with other holders (weights that tp does not cut): in the exchange.
      here.push_back(&item);
    }
  }
  update(here, info, slice_scale, matrix_scale);
  for (const auto& [tp, items] : shared)
    update_shared(items, model.tp_ranks(items[0]->owned->layer), info, matrix_scale);

  std::vector<MatrixExchange::Transit> going;
  for (size_t round = 0; round < rounds; ++round) {
    coming.wait();
    if (round + 1 < rounds) coming = gather(round + 1);
    std::vector<UpdateItem*> mine;
    for (const size_t m : exchange.rounds()[round]) {
      if (UpdateItem* item = state.owner_of(m)) mine.push_back(item);
    }
    update(mine, info, slice_scale, matrix_scale);
    going.push_back(scatter(round));
  }
  for (MatrixExchange::Transit& transit : going) transit.wait();
}

// New values travel in the type of the weights; where a round has several, in the wide one.
at::ScalarType DistributedOptimizer::Impl::value_wire(size_t round) const {
  const std::vector<OwnedMatrix>& all = model.matrices().matrices;
  const std::vector<size_t>& matrices = exchange.rounds()[round];
  const at::ScalarType first = all[matrices.front()].parameter->value.scalar_type();
  for (const size_t m : matrices) {
    if (all[m].parameter->value.scalar_type() != first) return accumulate_dtype(first);
  }
  return first;
}

void DistributedOptimizer::load_masters(const WeightSource& source) {
  impl_->state.load_masters(source);
}
void DistributedOptimizer::load(const CheckpointReader& in, Reset reset) {
  impl_->state.load(in, reset);
}
void DistributedOptimizer::load_converted(const WeightSource& weights,
                                          const CheckpointReader& state) {
  impl_->state.load_converted(weights, state);
}

void DistributedOptimizer::for_tensors(const std::function<void(const OptimizerTensor&)>& f) const {
  impl_->state.for_tensors(f);
}

void DistributedOptimizer::save(CheckpointWriter& out) const {
  for_tensors([&](const OptimizerTensor& t) { out.add(t.path, t.global, t.box, t.values); });
}

int64_t DistributedOptimizer::state_bytes() const { return impl_->state.bytes(); }
int64_t DistributedOptimizer::exchange_bytes() const {
  const int me = impl_->model.stage_ranks().rank();
  int64_t sum = 0;
  for (size_t round = 0; round < impl_->exchange.rounds().size(); ++round) {
    const MatrixExchange::Traffic traffic = impl_->exchange.traffic(me, round);
    const at::ScalarType wire = impl_->value_wire(round);
    const auto size = [](at::ScalarType type) {
      return static_cast<int64_t>(c10::elementSize(type));
    };
    sum += traffic.gradients * size(accumulate_dtype(wire)) + traffic.values * size(wire);
  }
  for (const UpdateItem& item : impl_->state.matrices()) {
    if (!item.owned->shared()) continue;
    const LogicalMatrix& m = item.owned->matrix;
    const int64_t both_ways = 4 * impl_->rules->rule(item.rule).shared_elements(m.rows, m.cols) *
                              item.weights.element_size();
    sum += both_ways * (item.owned->owners - 1) / item.owned->owners;
  }
  return sum;
}
double DistributedOptimizer::gradient_scale() const { return impl_->scale; }

}  // namespace strata
