#include "parallel/plan/plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {

std::string_view recompute_name(Recompute r) { return r == Recompute::Full ? "full" : "none"; }

Plan make_uniform_plan(const UniformPlan& request, int layer_count) {
  const int model_ranks = std::max(1, request.pp) * std::max(1, request.strategy.tp);
  if (request.world_size % model_ranks != 0) {
    const int below = request.world_size / model_ranks * model_ranks;
    throw ConfigError("number of ranks", cat(request.world_size),
                      cat("a multiple of plan.pp * plan.tp = ", model_ranks, " (nearest: ",
                          below > 0 ? cat(below, ", ") : "", below + model_ranks, ")"));
  }
  Plan plan;
  plan.world_size = request.world_size;
  plan.stages = std::max(1, request.pp);
  LayerStrategy strategy = request.strategy;
  strategy.dp = request.world_size / model_ranks;
  plan.layers.assign(layer_count, strategy);
  const int stages = plan.stages, base = layer_count / stages, longer = layer_count % stages;
  for (int stage = 0; stage < stages; ++stage) {
    plan.stage_of_layer.insert(plan.stage_of_layer.end(), base + (stage < longer ? 1 : 0), stage);
  }
  plan.global_batch = request.global_batch;
  plan.microbatches = request.microbatches;
  plan.schedule = request.schedule;
  return plan;
}

}  // namespace strata
