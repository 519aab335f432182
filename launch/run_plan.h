#pragma once
// The plan of a run: what [plan] asks for on this number of ranks, checked against the model.
#include <string>

#include "launch/run_sections.h"
#include "parallel/nn/model_spec.h"
#include "parallel/plan/plan.h"

namespace strata {

// Pure. Throws ConfigError with everything that is wrong, or with the nearest possible numbers of
// ranks.
Plan make_run_plan(const PlanSection& section, const ModelSpec& model, int world_size,
                   int64_t global_batch);

// plan.json: one object with the degrees of every layer by name.
std::string plan_json(const Plan& plan, const ModelSpec& model);

// "2 ranks: dp 1, tp 2, zero 0, 1 stage, 2 micro-batches of 4 rows"
std::string plan_text(const Plan& plan);

}  // namespace strata
