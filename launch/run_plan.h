#pragma once
// The plan of a run: what [plan] asks for on this number of ranks, checked against the model.
#include <string>

#include "launch/handshake.h"
#include "launch/run_sections.h"
#include "parallel/nn/model_spec.h"
#include "parallel/plan/plan_json.h"

namespace strata {

// Pure. time: tokens per row. Throws ConfigError with everything that is wrong, or with the nearest
// possible numbers of ranks. A plan file is for one number of ranks, one batch and one model.
Plan make_run_plan(const PlanSection& section, const ModelSpec& model, int world_size,
                   int64_t global_batch, int64_t time);

// What ranks compare of the plan besides the configuration: the content of the plan file.
Facts plan_facts(const PlanSection& section);

// plan.json of a run directory or checkpoint: a plan file for this model.
std::string plan_json(const Plan& plan, const ModelSpec& model);

}  // namespace strata
