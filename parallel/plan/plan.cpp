#include "parallel/plan/plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {

std::string_view recompute_name(Recompute r) {
  switch (r) {
    case Recompute::None:
      break;
    case Recompute::Selective:
      return "selective";
    case Recompute::Full:
      return "full";
  }
  return "none";
}

std::optional<Recompute> parse_recompute(std::string_view name) {
  for (const Recompute r : {Recompute::None, Recompute::Selective, Recompute::Full}) {
    if (name == recompute_name(r)) return r;
  }
  return std::nullopt;
}

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
  plan.chunks = std::max(1, request.chunks);
  plan.virtual_stage = even_stages(layer_count, plan.stages * plan.chunks);
  plan.global_batch = request.global_batch;
  plan.microbatches = request.microbatches;
  plan.schedule = request.schedule;
  return plan;
}

std::vector<int> even_stages(int layer_count, int parts) {
  const int ends = layer_count - 2 >= parts ? 2 : 0;  // embedding and head, beside the blocks
  const int count = layer_count - ends, longer = count % parts;
  std::vector<int> out;
  for (int part = 0; part < parts; ++part) {
    int layers = count / parts + (part < longer ? 1 : 0);
    if (ends != 0) layers += (part == 0 ? 1 : 0) + (part == parts - 1 ? 1 : 0);
    out.insert(out.end(), static_cast<size_t>(layers), part);
  }
  return out;
}

}  // namespace strata
