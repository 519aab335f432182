#include "launch/run_plan.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"

namespace strata {

Plan make_run_plan(const PlanSection& section, const ModelSpec& model, int world_size,
                   int64_t global_batch) {
  Plan plan = make_uniform_plan(section.request(world_size, global_batch), model.layer_count());
  std::vector<std::string> problems = check_plan(plan, model);
  if (!problems.empty()) throw ConfigError(std::move(problems));
  return plan;
}

std::string plan_json(const Plan& plan, const ModelSpec& model) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    const LayerStrategy& s = plan.layers[l];
    layers.push_back({{"layer", model.layer_name(static_cast<int>(l))},
                      {"stage", plan.stage_of(static_cast<int>(l))},
                      {"dp", s.dp},
                      {"tp", s.tp},
                      {"zero", s.zero},
                      {"sequence_parallel", s.sequence_parallel},
                      {"recompute", recompute_name(s.recompute)}});
  }
  const nlohmann::ordered_json json = {
      {"format", "strata-run-plan"},       {"model", model.family()},
      {"world_size", plan.world_size},     {"stages", plan.stages},
      {"global_batch", plan.global_batch}, {"microbatches", plan.microbatches},
      {"schedule", plan.schedule},         {"layers", layers}};
  return json.dump(2) + "\n";
}

std::string plan_text(const Plan& plan) {
  const LayerStrategy& s = plan.layers.at(0);
  std::string out =
      cat(plan.world_size, plan.world_size == 1 ? " rank" : " ranks", ": dp ", s.dp, ", tp ", s.tp,
          ", zero ", s.zero, s.sequence_parallel ? ", sequence parallel" : "",
          s.recompute == Recompute::Full ? ", recompute" : "", ", ", plan.stages,
          plan.stages == 1 ? " stage, " : " stages, ");
  return out + cat(plan.microbatches,
                   plan.microbatches == 1 ? " micro-batch of " : " micro-batches of ",
                   plan.rows_per_microbatch(), " rows");
}

}  // namespace strata
