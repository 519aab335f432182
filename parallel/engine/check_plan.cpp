// What this version can run, and what a model's cuts allow. All problems of a plan at once, before
// anything starts.
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "parallel/nn/model_spec.h"
#include "parallel/plan/plan.h"
#include "parallel/plan/schedule.h"

namespace strata {
namespace check_plan_detail {

// Degrees every cut parameter of the layer can be cut into, up to `most`; `limit` names the
// parameter that forbids `tp`.
std::string allowed_degrees(const std::vector<ParamMeta>& metas, int tp,
                            const std::string& layer_name) {
  std::vector<std::string> allowed;
  std::string limit;
  for (const ParamMeta& meta : metas) {
    const std::string why = why_not_divisible(meta.shard, meta.logical, tp);
    if (!why.empty() && limit.empty()) limit = cat(meta.name, " of ", layer_name, " ", why);
  }
  if (limit.empty()) return {};
  for (int degree = 1; degree <= std::max(2 * tp, 64); ++degree) {
    bool fits = true;
    for (const ParamMeta& meta : metas)
      fits = fits && why_not_divisible(meta.shard, meta.logical, degree).empty();
    if (fits) allowed.push_back(cat(degree));
  }
  return cat(join(allowed), " (", limit, ")");
}

}  // namespace check_plan_detail

std::vector<std::string> check_plan(const Plan& plan, const ModelSpec& model, int64_t time) {
  using check_plan_detail::allowed_degrees;
  std::vector<std::string> problems;
  auto add = [&](const std::string& key, const std::string& given, const std::string& allowed,
                 const std::string& hint = {}) {
    problems.push_back(problem_text(key, given, allowed, hint));
  };
  const int layers = model.layer_count();
  if (static_cast<int>(plan.layers.size()) != layers ||
      static_cast<int>(plan.virtual_stage.size()) != layers) {
    add("plan.layers", cat(plan.layers.size(), " layers"),
        cat(layers, " (embedding, blocks, head of this model)"));
    return problems;
  }
  if (plan.stages * plan.chunks > layers) {
    add("plan.pp", cat(plan.stages), cat("1 to ", layers / plan.chunks, " (layers of this model)"));
    return problems;
  }
  if (plan.microbatches < 1 || plan.global_batch % plan.microbatches != 0) {
    add("plan.microbatches", cat(plan.microbatches),
        cat("divisors of train.batch = ", plan.global_batch));
    return problems;
  }
  const std::string why = why_not_schedule(plan.schedule, plan.stages,
                                           static_cast<int>(plan.microbatches), plan.chunks);
  if (!why.empty()) {
    add("plan.schedule", plan.schedule, "one that fits", cat(" (", why, ")"));
  }
  const ParallelLayout meta_layout = ParallelLayout::serial(at::kMeta);
  std::set<std::string> reported;  // equal layers give equal problems: say it once
  for (int layer = 0; layer < layers; ++layer) {
    const LayerStrategy& s = plan.layers[layer];
    const std::string key = cat("plan.layers[", layer, "]");
    auto once = [&](const std::string& field, const std::string& given, const std::string& allowed,
                    const std::string& hint = {}) {
      if (reported.insert(field + given + allowed.substr(0, allowed.find('('))).second) {
        add(cat(key, ".", field), given, allowed, hint);
      }
    };
    if (s.tp < 1 || s.dp < 1 || s.dp * s.tp != plan.ranks_per_stage()) {
      once("dp", cat("dp ", s.dp, " x tp ", s.tp),
           cat("dp x tp = ", plan.ranks_per_stage(), " (ranks of a stage)"));
      continue;
    }
    if (s.zero < 0 || s.zero > 3) once("zero", cat(s.zero), "0 to 3");
    if (s.shards < 0 || (s.shards > 0 && s.dp % s.shards != 0))
      once("shards", cat(s.shards), cat("0 (all of dp), or a divisor of dp = ", s.dp));
    if (s.sequence_parallel && s.tp > 1 && time % s.tp != 0)
      once("sequence_parallel", "true",
           cat("rows of a multiple of tp = ", s.tp, " tokens, not ", time));
    if (plan.rows_per_microbatch() % s.dp != 0) {
      once("dp", cat(s.dp),
           cat("divisors of the ", plan.rows_per_microbatch(), " rows of a micro-batch"),
           " (train.batch / plan.microbatches must be a multiple of dp)");
    }
    if (s.tp > 1) {
      auto module = model.make_layer(layer, meta_layout);
      std::vector<ParamMeta> metas;
      for (const auto& owned : module->collect("")) metas.push_back(owned.parameter->meta);
      const std::string allowed = allowed_degrees(metas, s.tp, model.layer_name(layer));
      if (!allowed.empty()) once("tp", cat(s.tp), allowed);
    }
  }
  return problems;
}

}  // namespace strata
