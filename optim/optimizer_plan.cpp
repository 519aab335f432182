#include "optim/optimizer_plan.h"

#include <algorithm>

#include "core/error.h"
#include "parallel/engine/matrix_exchange.h"

namespace strata {
namespace optimizer_plan_detail {

int64_t bytes_of(const std::vector<StateSlot>& slots) {
  int64_t sum = 0;
  for (const StateSlot& slot : slots)
    sum += element_count(slot.shape) * static_cast<int64_t>(c10::elementSize(slot.dtype));
  return sum;
}

// One rank of a job that does not exist.
struct PlannedRank {
  CommPool pool;
  std::unique_ptr<ParallelManager> model;
  DistributedOptimizer optimizer;

  PlannedRank(std::shared_ptr<const ModelSpec> spec, const Plan& plan, int rank,
              const ManagerOptions& options, std::shared_ptr<const RuleSet> rules,
              const OptimizerOptions& optimizer_options)
      : pool(make_null_communicator(plan.world_size, rank, at::kMeta)),
        model(ParallelManager::build(std::move(spec), plan, pool, options)),
        optimizer(*model, std::move(rules), optimizer_options) {}
};

// The matrices of a stage as its first rank sees them.
std::vector<MatrixAssignment> matrices_of(PlannedRank& first, const Plan& plan, int stage,
                                          int64_t exchange_bytes) {
  const std::vector<OwnedMatrix>& all = first.model->matrices().matrices;
  const MatrixExchange exchange(all, exchange_bytes);
  const int base = stage * plan.ranks_per_stage();
  std::vector<MatrixAssignment> out;
  for (const OwnedMatrix& m : all) {
    MatrixAssignment a{.parameter = m.parameter->meta.name,
                       .index = m.matrix.index,
                       .rows = m.matrix.rows,
                       .cols = m.matrix.cols,
                       .stage = stage};
    const LayerStrategy& s = plan.layers[static_cast<size_t>(m.layer)];
    const int per_copy = s.tp * s.shard_count();
    for (int rank = m.owner % per_copy; rank < plan.ranks_per_stage(); rank += per_copy) {
      for (int i = 0; i < m.owners; ++i) a.owners.push_back(base + rank + i);
    }
    a.shared = m.shared();
    for (const auto& holder : m.holders) a.holders.push_back(base + holder.rank);
    out.push_back(std::move(a));
  }
  for (size_t round = 0; round < exchange.rounds().size(); ++round) {
    for (const size_t i : exchange.rounds()[round]) {
      out[i].round = static_cast<int>(round);
      out[i].gathered = exchange.gathered(i);
    }
  }
  return out;
}

}  // namespace optimizer_plan_detail

std::vector<RuleAssignment> assign_rules(const ModelSpec& spec, const RuleSet& rules,
                                         at::ScalarType dtype) {
  using namespace optimizer_plan_detail;
  const at::ScalarType wide = accumulate_dtype(dtype);
  const auto wide_bytes = static_cast<int64_t>(c10::elementSize(wide));
  std::vector<RuleAssignment> out;
  for (const ParamMeta& meta : parameter_metas(spec)) {
    RuleAssignment a{.parameter = meta.name, .shape = meta.logical};
    if (!meta.trainable) {
      a.why = "frozen";
      out.push_back(std::move(a));
      continue;
    }
    RuleSet::Choice choice = rules.choose(meta);
    const UpdateRule& rule = rules.rule(choice.rule);
    a.rule = rule.name();
    a.why = std::move(choice.why);
    a.adamw_bytes = 2 * meta.elements() * wide_bytes;
    if (wide != dtype && !meta.fp32) a.master_bytes = meta.elements() * wide_bytes;
    if (rule.needs() == UpdateRule::Needs::Slice) {
      a.state_bytes = bytes_of(rule.state_slots({meta.elements()}, wide));
    } else {
      const std::vector<LogicalMatrix> matrices = logical_matrices(meta);
      a.matrices = static_cast<int64_t>(matrices.size());
      a.rows = matrices.front().rows;
      a.cols = matrices.front().cols;
      for (const LogicalMatrix& m : matrices)
        a.state_bytes += bytes_of(rule.state_slots({m.rows, m.cols}, wide));
    }
    out.push_back(std::move(a));
  }
  return out;
}

double OptimizerPlan::imbalance() const {
  double most = 0;
  for (const OptimizerShare& share : ranks) most = std::max(most, share.work);
  return most > 0 ? most : 1;
}

OptimizerPlan plan_optimizer(std::shared_ptr<const ModelSpec> spec, const Plan& plan,
                             std::shared_ptr<const RuleSet> rules, ManagerOptions manager,
                             const OptimizerOptions& options) {
  using namespace optimizer_plan_detail;
  manager.device = at::kMeta;
  DistributedOptimizer::prepare(manager, *rules);
  OptimizerPlan out;
  for (int rank = 0; rank < plan.world_size; ++rank) {
    PlannedRank planned(spec, plan, rank, manager, rules, options);
    const int stage = rank / plan.ranks_per_stage(), within = rank % plan.ranks_per_stage();
    const MatrixPlacement& placement = planned.model->matrices();
    OptimizerShare share{.stage = stage};
    double all = 0;
    for (const double load : placement.loads) all += load;
    if (all > 0) {
      share.work = placement.loads[static_cast<size_t>(within)] / all *
                   static_cast<double>(placement.loads.size());
    }
    for (const OwnedMatrix& m : placement.matrices) share.matrices += m.owned_by(within);
    share.state_bytes = planned.optimizer.state_bytes();
    share.exchange_bytes = planned.optimizer.exchange_bytes();
    out.ranks.push_back(share);
    if (within != 0) continue;
    for (MatrixAssignment& m : matrices_of(planned, plan, stage, options.exchange_bytes))
      out.matrices.push_back(std::move(m));
  }
  return out;
}

}  // namespace strata
