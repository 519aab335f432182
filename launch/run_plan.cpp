#include "launch/run_plan.h"

#include "core/error.h"
#include "core/text.h"
#include "launch/run_checkpoints.h"
#include "parallel/plan/plan_string.h"

namespace strata {
namespace run_plan_detail {

// What a plan file states about the run.
std::vector<std::string> differences(const PlanSection& section, const ModelSpec& model,
                                     int world_size, int64_t global_batch) {
  const Plan& plan = section.from_file->plan;
  std::vector<std::string> problems;
  if (plan.world_size != world_size) {
    problems.push_back(problem_text("number of ranks", cat(world_size), cat(plan.world_size),
                                    cat(" (hardware.devices of ", section.file, ")")));
  }
  if (plan.global_batch != global_batch) {
    problems.push_back(problem_text("train.batch", cat(global_batch), cat(plan.global_batch),
                                    cat(" (global.gbs of ", section.file, ")")));
  }
  const std::string& stated = section.from_file->model.fingerprint;
  if (!stated.empty() && stated != fingerprint_of(model)) {
    problems.push_back(problem_text(cat(section.file, ": model.hash"), stated,
                                    fingerprint_of(model),
                                    " (this model; the plan is for another one)"));
  }
  return problems;
}

}  // namespace run_plan_detail

Plan make_run_plan(const PlanSection& section, const ModelSpec& model, int world_size,
                   int64_t global_batch, int64_t time) {
  if (!section.from_file) {
    Plan plan = make_uniform_plan(section.request(world_size, global_batch), model.layer_count());
    std::vector<std::string> problems = check_plan(plan, model, time);
    if (!problems.empty()) throw ConfigError(std::move(problems));
    return plan;
  }
  std::vector<std::string> problems =
      run_plan_detail::differences(section, model, world_size, global_batch);
  for (const std::string& problem : check_plan(section.from_file->plan, model, time))
    problems.push_back(cat(section.file, ": ", problem));
  if (!problems.empty()) throw ConfigError(std::move(problems));
  return section.from_file->plan;
}

Facts plan_facts(const PlanSection& section) {
  if (!section.from_file) return {};
  return {{"the plan in " + section.file, plan_string(section.from_file->plan)}};
}

std::string plan_json(const Plan& plan, const ModelSpec& model) {
  return plan_json(plan, PlanModel{fingerprint_of(model), model.family()});
}

}  // namespace strata
