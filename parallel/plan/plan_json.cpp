#include "parallel/plan/plan_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace plan_json_detail {

using Json = nlohmann::ordered_json;

Json strategy_json(const LayerStrategy& s, Json out = Json::object()) {
  out["t"] = s.tp;
  out["sp"] = s.sequence_parallel;
  out["c"] = 1;
  out["cp_kind"] = nullptr;
  out["d"] = s.dp;
  out["zero"] = s.zero;
  out["shard_group"] = s.shards == 0 ? Json("full") : Json(s.shards);
  out["recompute"] = recompute_name(s.recompute);
  out["placement"] = "device";
  return out;
}

// Runs of equal blocks.
Json layers_json(const Plan& plan) {
  Json out = Json::array();
  const size_t blocks = plan.layers.size() - 2;
  for (size_t from = 0; from < blocks;) {
    size_t to = from;
    while (to + 1 < blocks && plan.layers[to + 2] == plan.layers[from + 1]) ++to;
    out.push_back(strategy_json(plan.layers[from + 1], {{"from", from}, {"to", to}}));
    from = to + 1;
  }
  return out;
}

// First and last layer of every part of every stage.
Json stages_json(const Plan& plan) {
  const std::vector<int>& parts = plan.virtual_stage;
  Json out = Json::array();
  for (int stage = 0; stage < plan.stages; ++stage) {
    Json chunks = Json::array();
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      const auto [begin, end] =
          std::equal_range(parts.begin(), parts.end(), chunk * plan.stages + stage);
      chunks.push_back(Json::array({begin - parts.begin(), end - parts.begin() - 1}));
    }
    out.push_back({{"first", chunks.front()[0]}, {"last", chunks.back()[1]}, {"chunks", chunks}});
  }
  return out;
}

// A line per member, and per element of a list.
std::string lines(const Json& object) {
  std::vector<std::string> members;
  for (const auto& [key, value] : object.items()) {
    std::string text = value.dump();
    if (value.is_array() && !value.empty()) {
      std::vector<std::string> elements;
      for (const Json& element : value) elements.push_back("\n    " + element.dump());
      text = cat('[', join(elements, ","), "\n  ]");
    }
    members.push_back(cat("\n  ", Json(key).dump(), ": ", text));
  }
  return cat('{', join(members, ","), "\n}\n");
}

}  // namespace plan_json_detail

std::string plan_json(const Plan& plan, const PlanModel& model) {
  using namespace plan_json_detail;
  STRATA_CHECK(plan.layers.size() >= 2 && plan.layers.size() == plan.virtual_stage.size(),
               "a plan file needs embedding and head");
  Json out = {{"schema", "plan/1"}};
  if (!model.fingerprint.empty()) out["model"]["hash"] = model.fingerprint;
  if (!model.family.empty()) out["model"]["x-family"] = model.family;
  out["hardware"] = {{"devices", plan.world_size}};
  out["global"] = {{"p", plan.stages},
                   {"v", plan.chunks},
                   {"schedule", plan.schedule},
                   {"m", plan.microbatches},
                   {"gbs", plan.global_batch},
                   {"mbs_stage", plan.rows_per_microbatch()},
                   {"group_order", {"tp", "cp", "dp_shard", "dp_rep", "pp"}}};
  out["stages"] = stages_json(plan);
  out["layers"] = layers_json(plan);
  out["embed"] = strategy_json(plan.layers.front());
  out["head"] = strategy_json(plan.layers.back());
  out["optimizer"] = {{"placement", "owner"}};
  return lines(out);
}

}  // namespace strata
