#pragma once
// What the optimizer will do under a plan, found without running it: the rule of every parameter
// and what it keeps, the owner of every matrix, what each rank does and what travels. From the same
// code as a run: ranks are built without memory and without peers.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optim/distributed_optimizer.h"
#include "parallel/nn/logical_matrix.h"

namespace strata {

// The rule of a parameter.
struct RuleAssignment {
  std::string parameter;
  Shape shape;
  std::string rule, why;       // rule: "" of a frozen parameter
  int64_t matrices = 0;        // that the rule sees in it; 0: updated in slices
  int64_t rows = 0, cols = 0;  // of the first of them
  int64_t state_bytes = 0;     // over all ranks, copies counted once; without masters
  int64_t adamw_bytes = 0;     // what AdamW would keep
  int64_t master_bytes = 0;    // of its fp32 master, where that is not the model's own memory
};

// By model order, tied parameters once. Pure. dtype: of the run (masters are its accumulate type).
std::vector<RuleAssignment> assign_rules(const ModelSpec& spec, const RuleSet& rules,
                                         at::ScalarType dtype);

struct MatrixAssignment {
  std::string parameter;
  int64_t index = 0, rows = 0, cols = 0;  // of the matrix within its parameter
  int stage = 0;
  std::vector<int> owners;  // ranks of the job: one for each copy; of a shared matrix all sharers
  bool shared = false;
  std::vector<int> holders;  // of the first copy
  int round = -1;            // of the exchange; -1: its owner has all of it
  int64_t gathered = 0;      // elements that come to the first owner
};

struct OptimizerShare {
  int stage = 0;
  int64_t matrices = 0;
  double work = 0;             // relative to the mean of its stage
  int64_t state_bytes = 0;     // with masters
  int64_t exchange_bytes = 0;  // sent and received in a step
};

struct OptimizerPlan {
  std::vector<MatrixAssignment> matrices;  // by stage, expensive ones first
  std::vector<OptimizerShare> ranks;       // by rank of the job
  // Largest work of a rank over the mean of its stage; 1 without matrices.
  double imbalance() const;
};

// The plan must have passed check_plan. manager: of the run; its device and cost do not matter.
// Builds every rank one after the other: some milliseconds per layer and rank.
OptimizerPlan plan_optimizer(std::shared_ptr<const ModelSpec> spec, const Plan& plan,
                             std::shared_ptr<const RuleSet> rules, ManagerOptions manager,
                             const OptimizerOptions& options);

}  // namespace strata
