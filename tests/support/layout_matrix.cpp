#include "tests/support/layout_matrix.h"

#include <algorithm>
#include <random>
#include <set>
#include <tuple>

#include "core/text.h"
#include "parallel/plan/schedule.h"

namespace strata::testing {
namespace layout_matrix_detail {

constexpr int kDegrees[] = {1, 2, 4};
constexpr int kMicrobatchCounts[] = {1, 3, 4, 8};
const char* const kSchedules[] = {"gpipe", "1f1b", "interleaved", "zb-h1"};
constexpr Recompute kRecomputes[] = {Recompute::None, Recompute::Selective, Recompute::Full};
constexpr int kMaxWorld = 8;

int layers_of(int model) {
  static const std::vector<int> counts = [] {
    std::vector<int> out;
    for (const TinyModel& m : tiny_models()) out.push_back(make_tiny(m)->layer_count());
    return out;
  }();
  return counts.at(static_cast<size_t>(model));
}

using Pair = std::tuple<int, int, int, int>;  // factor, value, factor, value
std::vector<Pair> pairs_of(const LayoutRow& row) {
  std::vector<Pair> out;
  for (int a = 0; a < kFactors; ++a) {
    for (int b = a + 1; b < kFactors; ++b) out.emplace_back(a, row.choice[a], b, row.choice[b]);
  }
  return out;
}

}  // namespace layout_matrix_detail

using namespace layout_matrix_detail;

int factor_values(Factor factor) {
  switch (factor) {
    case kModel:
      return static_cast<int>(tiny_models().size());
    case kDp:
    case kTp:
    case kStages:
    case kRecompute:
      return 3;
    case kSchedule:
    case kZero:
    case kMicrobatches:
      return 4;
    default:
      return 2;
  }
}

int LayoutRow::world() const {
  return kDegrees[choice[kDp]] * kDegrees[choice[kTp]] * kDegrees[choice[kStages]];
}

const TinyModel& LayoutRow::model() const {
  return tiny_models().at(static_cast<size_t>(choice[kModel]));
}

std::string LayoutRow::text() const {
  std::string out =
      cat(model().name, " dp", kDegrees[choice[kDp]], " tp", kDegrees[choice[kTp]], " pp",
          kDegrees[choice[kStages]], " ", kSchedules[choice[kSchedule]], " zero", choice[kZero]);
  if (choice[kShards]) out += "/half";
  if (choice[kTokens]) out += " sp";
  out += cat(" recompute ", recompute_name(kRecomputes[choice[kRecompute]]), " M",
             kMicrobatchCounts[choice[kMicrobatches]]);
  if (choice[kLayers]) out += " mixed";
  if (choice[kDocuments]) out += " packed";
  return out;
}

RunSetup LayoutRow::setup() const {
  RunSetup s;
  s.strategy.tp = kDegrees[choice[kTp]];
  s.strategy.zero = choice[kZero];
  s.strategy.shards = choice[kShards] ? kDegrees[choice[kDp]] / 2 : 0;
  s.strategy.sequence_parallel = choice[kTokens] == 1;
  s.strategy.recompute = kRecomputes[choice[kRecompute]];
  s.pp = kDegrees[choice[kStages]];
  s.schedule = kSchedules[choice[kSchedule]];
  s.chunks = s.schedule == "interleaved" ? 2 : 1;
  s.microbatches = kMicrobatchCounts[choice[kMicrobatches]];
  s.global_batch = 4 * s.microbatches;
  s.packed = choice[kDocuments] == 1;
  s.max_grad_norm = choice[kMicrobatches] % 2 == 0 ? 0 : 0.5;
  if (choice[kLayers]) {
    uint64_t seed = 17;
    for (const int value : choice) seed = seed * 7 + static_cast<uint64_t>(value);
    s.edit = [seed](Plan& plan) { mix_layers(plan, seed); };
  }
  return s;
}

bool possible(const LayoutRow& row) {
  const auto& c = row.choice;
  const int dp = kDegrees[c[kDp]], pp = kDegrees[c[kStages]];
  const std::string schedule = kSchedules[c[kSchedule]];
  const int chunks = schedule == "interleaved" ? 2 : 1;
  if (row.world() > kMaxWorld || pp * chunks > layers_of(c[kModel])) return false;
  if (pp == 1 && schedule != "1f1b") return false;  // all the same
  if (!why_not_schedule(schedule, pp, kMicrobatchCounts[c[kMicrobatches]], chunks).empty())
    return false;
  if (c[kZero] > 0 && dp == 1) return false;
  if (c[kShards] && (c[kZero] == 0 || dp != 4)) return false;
  if (c[kTokens] && c[kTp] == 0) return false;
  return true;
}

std::vector<LayoutRow> all_rows() {
  std::vector<LayoutRow> out;
  LayoutRow row;
  while (true) {
    if (possible(row)) out.push_back(row);
    int f = 0;
    while (f < kFactors && ++row.choice[f] == factor_values(static_cast<Factor>(f)))
      row.choice[f++] = 0;
    if (f == kFactors) return out;
  }
}

// Greedy: for the first pair not covered yet, the best of some random rows of at most `world` ranks
// that contain it.
static std::vector<LayoutRow> covering_rows(int world, unsigned seed) {
  constexpr int kTries = 4000, kGood = 60;
  std::mt19937 random(seed);
  std::vector<LayoutRow> out;
  std::set<Pair> covered;
  const auto random_row = [&] {
    LayoutRow row;
    for (int f = 0; f < kFactors; ++f)
      row.choice[f] =
          static_cast<int>(random() % static_cast<unsigned>(factor_values(static_cast<Factor>(f))));
    return row;
  };
  for (int a = 0; a < kFactors; ++a) {
    for (int b = a + 1; b < kFactors; ++b) {
      for (int va = 0; va < factor_values(static_cast<Factor>(a)); ++va) {
        for (int vb = 0; vb < factor_values(static_cast<Factor>(b)); ++vb) {
          if (covered.count({a, va, b, vb})) continue;
          LayoutRow best;
          int most = 0, found = 0;
          for (int t = 0; t < kTries && found < kGood; ++t) {
            LayoutRow row = random_row();
            row.choice[a] = va;
            row.choice[b] = vb;
            if (!possible(row) || row.world() > world) continue;
            ++found;
            int fresh = 0;
            for (const Pair& pair : pairs_of(row)) fresh += covered.count(pair) == 0;
            if (fresh > most) most = fresh, best = row;
          }
          if (found == 0) continue;  // the two exclude each other
          for (const Pair& pair : pairs_of(best)) covered.insert(pair);
          out.push_back(best);
        }
      }
    }
  }
  return out;
}

// Every pair once among up to eight ranks, and once more among up to four.
std::vector<LayoutRow> pairwise_rows() {
  std::vector<LayoutRow> out = covering_rows(8, 20);
  for (const LayoutRow& row : covering_rows(4, 21)) {
    if (std::find(out.begin(), out.end(), row) == out.end()) out.push_back(row);
  }
  return out;
}

void mix_layers(Plan& plan, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto pick = [&](int count) {
    return static_cast<int>(random() % static_cast<uint64_t>(count));
  };
  const int ranks = plan.ranks_per_stage(), layers = static_cast<int>(plan.layers.size());
  std::vector<int> degrees;
  for (int tp = 1; tp <= std::min(ranks, 4); tp *= 2) {
    if (ranks / tp <= 4) degrees.push_back(tp);
  }
  for (LayerStrategy& s : plan.layers) {
    s.tp = degrees[static_cast<size_t>(pick(static_cast<int>(degrees.size())))];
    s.dp = ranks / s.tp;
    s.zero = pick(4);
    s.shards = s.dp == 4 && pick(2) == 1 ? 2 : 0;
    s.sequence_parallel = s.tp > 1 && pick(2) == 1;
    s.recompute = kRecomputes[pick(3)];
  }
  LayerStrategy &first = plan.layers.front(), &last = plan.layers.back();
  last.tp = first.tp;
  last.dp = first.dp;
  last.zero = first.zero;
  last.shards = first.shards;
  last.sequence_parallel = last.sequence_parallel && last.tp > 1;
  // Random borders between the parts, none of them empty.
  const int parts = plan.stages * plan.chunks;
  std::vector<int> borders(static_cast<size_t>(layers) - 1);
  for (size_t i = 0; i < borders.size(); ++i) borders[i] = static_cast<int>(i) + 1;
  std::shuffle(borders.begin(), borders.end(), random);
  borders.resize(static_cast<size_t>(parts) - 1);
  for (int l = 0; l < layers; ++l) {
    plan.virtual_stage[static_cast<size_t>(l)] = static_cast<int>(
        std::count_if(borders.begin(), borders.end(), [&](int border) { return border <= l; }));
  }
}

}  // namespace strata::testing
