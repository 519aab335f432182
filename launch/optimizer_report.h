#pragma once
// optim/optimizer_plan.h for people and as JSON.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "optim/optimizer_plan.h"

namespace strata {

// One line for equal parameters of several layers ("model.layers.*.mlp.up_proj.weight"), in model
// order, and a last one with what all state takes beside AdamW's.
std::string rule_table(const std::vector<RuleAssignment>& rules);

// What the ranks do and what travels between them; the most expensive matrices that do by name.
std::string optimizer_plan_text(const OptimizerPlan& plan);

// Everything: {"rules": [...], "ranks": [...], "matrices": [...], "imbalance": x}.
nlohmann::ordered_json optimizer_json(const std::vector<RuleAssignment>& rules,
                                      const OptimizerPlan& plan);

}  // namespace strata
