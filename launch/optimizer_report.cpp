#include "launch/optimizer_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/table.h"
#include "core/text.h"

namespace strata {
namespace optimizer_report_detail {

std::string memory(int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

std::string fixed(double value) { return number_text(std::round(value * 100) / 100); }

// Numbers of layers as a star.
std::string pattern_of(const std::string& name) {
  std::vector<std::string> parts = split(name, '.');
  for (std::string& part : parts) {
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(),
                                                     [](char c) { return c >= '0' && c <= '9'; });
    if (number) part = "*";
  }
  return join(parts, ".");
}

std::string shape_of(const RuleAssignment& a) {
  if (a.matrices > 1) return cat(a.matrices, " of ", a.rows, " x ", a.cols);
  std::vector<std::string> extents;
  for (const int64_t extent : a.shape) extents.push_back(cat(extent));
  return join(extents, " x ");
}

std::string ranks_of(const std::vector<int>& ranks) {
  std::vector<std::string> out;
  for (const int rank : ranks) out.push_back(cat(rank));
  return join(out, " ");
}

std::string matrix_name(const MatrixAssignment& m) {
  return m.index == 0 ? m.parameter : cat(m.parameter, " [", m.index, "]");
}

std::string stage_text(const OptimizerPlan& plan, int stage) {
  std::vector<std::vector<std::string>> rows = {
      {"rank", "matrices", "work", "state and masters", "sent and received"}};
  double most = 0;
  for (size_t rank = 0; rank < plan.ranks.size(); ++rank) {
    const OptimizerShare& share = plan.ranks[rank];
    if (share.stage != stage) continue;
    most = std::max(most, share.work);
    rows.push_back({cat(rank), cat(share.matrices), fixed(share.work), memory(share.state_bytes),
                    memory(share.exchange_bytes)});
  }
  if (most == 0) {
    for (auto& row : rows) row.erase(row.begin() + 1, row.begin() + 3);
    return table_text(rows);
  }
  return cat(table_text(rows), "most work ", fixed(most), " times the mean\n");
}

std::string exchange_text(const OptimizerPlan& plan) {
  constexpr size_t kMost = 24;
  std::vector<std::vector<std::string>> rows = {
      {"matrix", "shape", "stage", "owner", "held by", "round", "comes from others"}};
  size_t travelling = 0, shared = 0;
  int rounds = 0;
  for (const MatrixAssignment& m : plan.matrices) {
    shared += m.shared;
    if (m.round < 0) continue;
    rounds = std::max(rounds, m.round + 1);
    if (++travelling > kMost) continue;
    rows.push_back({matrix_name(m), cat(m.rows, " x ", m.cols), cat(m.stage), ranks_of(m.owners),
                    ranks_of(m.holders), cat(m.round),
                    cat(std::lround(100. * static_cast<double>(m.gathered) /
                                    static_cast<double>(m.rows * m.cols)),
                        " %")});
  }
  if (plan.matrices.empty()) return "No matrices are updated as wholes: nothing travels.\n";
  std::string out;
  if (shared > 0) {
    out = cat(shared, " of ", plan.matrices.size(),
              " matrices are updated where they lie, by the ranks that hold them together.\n");
    if (travelling == 0) return out;
  }
  if (travelling == 0)
    return cat("Nothing travels for the ", plan.matrices.size(),
               " matrices: each lies whole with its owner.\n");
  out += cat(travelling, " of ", plan.matrices.size(), " matrices travel, in ", rounds,
             rounds == 1 ? " round" : " rounds", ":\n", table_text(rows));
  if (travelling > kMost)
    out += cat("and ", travelling - kMost, " more that cost less (--json names all)\n");
  return out;
}

}  // namespace optimizer_report_detail

using namespace optimizer_report_detail;

std::string rule_table(const std::vector<RuleAssignment>& rules) {
  struct Line {
    const RuleAssignment* first;
    int64_t number = 0, state = 0, adamw = 0;
  };
  std::vector<Line> lines;
  std::map<std::tuple<std::string, std::string, std::string, std::string>, size_t> known;
  int64_t state = 0, adamw = 0, masters = 0;
  for (const RuleAssignment& a : rules) {
    const auto [at, fresh] =
        known.try_emplace({pattern_of(a.parameter), shape_of(a), a.rule, a.why}, lines.size());
    if (fresh) lines.push_back({&a});
    Line& line = lines[at->second];
    ++line.number;
    line.state += a.state_bytes;
    line.adamw += a.adamw_bytes;
    state += a.state_bytes;
    adamw += a.adamw_bytes;
    masters += a.master_bytes;
  }
  std::vector<std::vector<std::string>> rows = {
      {"rule", "parameters", "shape", "number", "why", "state", "AdamW's"}};
  for (const Line& line : lines) {
    const RuleAssignment& a = *line.first;
    rows.push_back({a.rule.empty() ? "-" : a.rule,
                    line.number == 1 ? a.parameter : pattern_of(a.parameter), shape_of(a),
                    cat(line.number), a.why, memory(line.state), memory(line.adamw)});
  }
  std::string out = cat(table_text(rows), "state ", memory(state));
  if (adamw > 0 && state != adamw) {
    const double change = 100 * (static_cast<double>(state) / static_cast<double>(adamw) - 1);
    out += cat(", AdamW's would be ", memory(adamw), " (", change < 0 ? "" : "+",
               number_text(std::round(change)), " %)");
  }
  if (masters > 0) out += cat("; masters ", memory(masters));
  return out + "\n";
}

std::string optimizer_plan_text(const OptimizerPlan& plan) {
  std::string out;
  const int stages = plan.ranks.empty() ? 0 : plan.ranks.back().stage + 1;
  for (int stage = 0; stage < stages; ++stage) {
    if (stages > 1) out += cat(stage > 0 ? "\n" : "", "stage ", stage, "\n");
    out += stage_text(plan, stage);
  }
  return cat(out, "\n", exchange_text(plan));
}

nlohmann::ordered_json optimizer_json(const std::vector<RuleAssignment>& rules,
                                      const OptimizerPlan& plan) {
  using Json = nlohmann::ordered_json;
  Json out = {{"rules", Json::array()},
              {"imbalance", plan.imbalance()},
              {"ranks", Json::array()},
              {"matrices", Json::array()}};
  for (const RuleAssignment& a : rules) {
    out["rules"].push_back({{"parameter", a.parameter},
                            {"shape", a.shape},
                            {"rule", a.rule},
                            {"why", a.why},
                            {"matrices", a.matrices},
                            {"state_bytes", a.state_bytes},
                            {"adamw_bytes", a.adamw_bytes},
                            {"master_bytes", a.master_bytes}});
  }
  for (const OptimizerShare& share : plan.ranks) {
    out["ranks"].push_back({{"stage", share.stage},
                            {"matrices", share.matrices},
                            {"work", share.work},
                            {"state_bytes", share.state_bytes},
                            {"exchange_bytes", share.exchange_bytes}});
  }
  for (const MatrixAssignment& m : plan.matrices) {
    Json entry = {{"parameter", m.parameter}, {"index", m.index},     {"rows", m.rows},
                  {"cols", m.cols},           {"stage", m.stage},     {"owners", m.owners},
                  {"shared", m.shared},       {"holders", m.holders}, {"round", nullptr},
                  {"gathered", m.gathered}};
    if (m.round >= 0) entry["round"] = m.round;
    out["matrices"].push_back(std::move(entry));
  }
  return out;
}

}  // namespace strata
