#include "parallel/plan/relayout_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace relayout_plan_detail {

Range overlap(const Range& a, const Range& b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Different parts that ranks hold, each with its holders in increasing order.
struct HeldPart {
  ActivationPart part;
  std::vector<int> holders;
};
std::vector<HeldPart> held_parts(const std::vector<ActivationPart>& parts) {
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t>;
  std::map<Key, HeldPart> held;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    const ActivationPart& p = parts[rank];
    HeldPart& entry = held[{p.rows.begin, p.rows.end, p.time.begin, p.time.end}];
    entry.part = p;
    entry.holders.push_back(static_cast<int>(rank));
  }
  std::vector<HeldPart> out;
  for (auto& [key, entry] : held) out.push_back(std::move(entry));
  return out;
}

// A receiver that holds a part already copies its own; the others spread over the holders.
int sender_of(const HeldPart& held, int receiver) {
  const auto& holders = held.holders;
  if (std::binary_search(holders.begin(), holders.end(), receiver)) return receiver;
  return holders[static_cast<size_t>(receiver) % holders.size()];
}

void sort_by_peer(std::vector<RelayoutPiece>& pieces) {
  std::stable_sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) {
    return std::tuple(a.peer, a.part.rows.begin, a.part.time.begin) <
           std::tuple(b.peer, b.part.rows.begin, b.part.time.begin);
  });
}

}  // namespace relayout_plan_detail

ActivationPart activation_part(const LayerStrategy& strategy, int rank, int64_t rows, int64_t time,
                               bool whole_rows) {
  const int64_t dp_index = rank / strategy.tp, tp_index = rank % strategy.tp;
  ActivationPart part{{0, rows}, {0, time}};
  if (!whole_rows) {
    part.rows = {dp_index * rows / strategy.dp, (dp_index + 1) * rows / strategy.dp};
  }
  if (strategy.sequence_parallel) {
    part.time = {tp_index * time / strategy.tp, (tp_index + 1) * time / strategy.tp};
  }
  return part;
}

bool RelayoutPlan::nothing() const {
  return from == to && std::all_of(sends.begin(), sends.end(),
                                   [this](const auto& piece) { return piece.peer == rank; });
}

int64_t RelayoutPlan::received_elements() const {
  int64_t sum = 0;
  for (const RelayoutPiece& piece : receives) sum += piece.peer == rank ? 0 : piece.part.elements();
  return sum;
}

RelayoutPlan relayout_plan(const std::vector<ActivationPart>& parts_from,
                           const std::vector<ActivationPart>& parts_to, int rank) {
  using namespace relayout_plan_detail;
  STRATA_CHECK(parts_from.size() == parts_to.size(), "relayout between stages of different size");
  RelayoutPlan plan;
  plan.rank = rank;
  plan.from = parts_from.at(static_cast<size_t>(rank));
  plan.to = parts_to.at(static_cast<size_t>(rank));
  int64_t covered = 0;
  for (const HeldPart& held : held_parts(parts_from)) {
    for (int receiver = 0; receiver < static_cast<int>(parts_to.size()); ++receiver) {
      const int sender = sender_of(held, receiver);
      if (sender != rank && receiver != rank) continue;
      const ActivationPart& to = parts_to[static_cast<size_t>(receiver)];
      const ActivationPart piece{overlap(held.part.rows, to.rows),
                                 overlap(held.part.time, to.time)};
      if (piece.elements() == 0) continue;
      if (sender == rank) plan.sends.push_back({receiver, piece});
      if (receiver == rank) {
        plan.receives.push_back({sender, piece});
        covered += piece.elements();
      }
    }
  }
  STRATA_CHECK(covered == plan.to.elements(),
               cat("relayout: rank ", rank, " would receive ", covered, " of ", plan.to.elements(),
                   " elements"));
  sort_by_peer(plan.sends);
  sort_by_peer(plan.receives);
  return plan;
}

}  // namespace strata
