#pragma once
// Plan files: JSON of schema plan/1 (docs/plan.md). Reading needs no model; check_plan() does.
#include <string>
#include <string_view>

#include "parallel/plan/plan.h"

namespace strata {

// Names and fingerprint of the model a plan is written for; all optional when reading.
struct PlanModel {
  std::string fingerprint;  // model_fingerprint of checkpoint.md 4.1; "" = not stated
  std::string family;
};

// Round trip: parse_plan(plan_json(p)) == p. Layers of equal strategy are written as runs.
std::string plan_json(const Plan& plan, const PlanModel& model = {});

struct ParsedPlan {
  Plan plan;
  PlanModel model;
};
// Throws ConfigError with every problem of the text (unknown keys unless "x-...", wrong types,
// missing or overlapping layers, numbers that do not multiply to devices). `name` is the file in
// messages.
ParsedPlan parse_plan(std::string_view text, const std::string& name);

// One line per run of equal layers, stages and schedule: what logs and `strata plan show` print.
std::string plan_table(const Plan& plan, const std::vector<std::string>& layer_names);
// One line: "8 ranks: 2 stages, dp 2, tp 2, zero 1; 4 micro-batches of 8 rows, 1f1b".
std::string plan_summary(const Plan& plan);

}  // namespace strata
