#include "parallel/plan/border_traffic.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "parallel/plan/relayout_plan.h"

namespace strata {
namespace border_traffic_detail {

int64_t common(const Range& a, const Range& b) {
  return std::max<int64_t>(0, std::min(a.end, b.end) - std::max(a.begin, b.begin));
}

}  // namespace border_traffic_detail

std::vector<BorderTraffic> border_traffic(const Plan& plan, int64_t time) {
  using border_traffic_detail::common;
  const int64_t rows = plan.rows_per_microbatch();
  std::map<std::tuple<int, bool, int, bool>, BorderTraffic> busiest;  // equal changes, equal cost
  std::vector<BorderTraffic> out;
  for (size_t l = 1; l < plan.layers.size(); ++l) {
    const LayerStrategy &a = plan.layers[l - 1], &b = plan.layers[l];
    const bool cut_a = a.sequence_parallel && a.tp > 1, cut_b = b.sequence_parallel && b.tp > 1;
    if (a.tp == b.tp && cut_a == cut_b) continue;
    const auto [known, first] = busiest.try_emplace({a.tp, cut_a, b.tp, cut_b});
    for (int rank = 0; first && rank < plan.ranks_per_stage(); ++rank) {
      // Parts of one layout are equal or disjoint: a rank receives all that it does not hold.
      const ActivationPart from = activation_part(a, rank, rows, time);
      const ActivationPart to = activation_part(b, rank, rows, time);
      const int64_t kept = common(from.rows, to.rows) * common(from.time, to.time);
      known->second.forward = std::max(known->second.forward, to.elements() - kept);
      known->second.backward = std::max(known->second.backward, from.elements() - kept);
    }
    BorderTraffic border = known->second;
    border.layer = static_cast<int>(l);
    out.push_back(border);
  }
  return out;
}

}  // namespace strata
