// Plans for people.
#include <algorithm>
#include <utility>

#include "core/table.h"
#include "core/text.h"
#include "parallel/plan/plan_json.h"

namespace strata {
namespace plan_table_detail {

std::string counted(int64_t count, const std::string& what) {
  return cat(count, " ", what, count == 1 ? "" : "s");
}

std::string strategy_text(const LayerStrategy& s) {
  std::string out = cat("dp ", s.dp, ", tp ", s.tp, ", zero ", s.zero);
  if (s.zero > 0 && s.shard_count() != s.dp) out += cat(" over ", s.shard_count());
  if (s.sequence_parallel) out += ", sequence parallel";
  if (s.recompute == Recompute::Full) out += ", recompute";
  if (s.recompute == Recompute::Selective) out += ", selective recompute";
  return out;
}

}  // namespace plan_table_detail

std::string plan_table(const Plan& plan, const std::vector<std::string>& layer_names) {
  std::vector<std::vector<std::string>> rows = {
      {"layers", "stage", "dp", "tp", "zero", "shards", "sequence parallel", "recompute"}};
  if (plan.chunks > 1) rows[0][1] = "stage.chunk";
  const size_t layers = plan.layers.size();
  for (size_t from = 0; from < layers;) {
    size_t to = from;
    while (to + 1 < layers && plan.layers[to + 1] == plan.layers[from] &&
           plan.virtual_stage[to + 1] == plan.virtual_stage[from]) {
      ++to;
    }
    const LayerStrategy& s = plan.layers[from];
    const auto layer = static_cast<int>(from);
    rows.push_back(
        {to == from ? layer_names[from]
                    : cat(layer_names[from], to == from + 1 ? ", " : " ... ", layer_names[to]),
         plan.chunks > 1 ? cat(plan.stage_of(layer), '.', plan.chunk_of(layer))
                         : cat(plan.stage_of(layer)),
         cat(s.dp), cat(s.tp), cat(s.zero), s.zero == 0 ? "-" : cat(s.shard_count()),
         s.sequence_parallel && s.tp > 1 ? "yes" : "no", std::string(recompute_name(s.recompute))});
    from = to + 1;
  }
  return table_text(rows);
}

std::string plan_summary(const Plan& plan) {
  using namespace plan_table_detail;
  constexpr size_t kMostKinds = 4;
  std::vector<std::pair<LayerStrategy, int>> kinds;
  for (const LayerStrategy& s : plan.layers) {
    const auto same =
        std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) { return kind.first == s; });
    if (same == kinds.end()) {
      kinds.emplace_back(s, 1);
    } else {
      ++same->second;
    }
  }
  std::string out = counted(plan.world_size, "rank") + ": ";
  if (plan.stages > 1) {
    out += counted(plan.stages, "stage");
    if (plan.chunks > 1) out += cat(" of ", counted(plan.chunks, "chunk"));
    out += kinds.size() == 1 ? ", " : "; ";
  }
  if (kinds.size() == 1) {
    out += strategy_text(kinds[0].first);
  } else {
    std::vector<std::string> texts;
    for (size_t k = 0; k < std::min(kinds.size(), kMostKinds); ++k)
      texts.push_back(cat(counted(kinds[k].second, "layer"), " ", strategy_text(kinds[k].first)));
    if (kinds.size() > kMostKinds)
      texts.push_back(counted(static_cast<int64_t>(kinds.size() - kMostKinds), "other kind"));
    out += join(texts, "; ");
  }
  out += cat("; ", plan.microbatches, plan.microbatches == 1 ? " micro-batch" : " micro-batches",
             " of ", counted(plan.rows_per_microbatch(), "row"));
  if (plan.stages > 1) out += ", " + plan.schedule;
  return out;
}

}  // namespace strata
