// Simulated time as pictures.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "parallel/plan/simulate.h"

namespace strata {

std::string timeline_text(const Simulation& simulation, int columns) {
  const double scale = simulation.makespan > 0 ? columns / simulation.makespan : 0;
  std::string out;
  for (size_t stage = 0; stage < simulation.timeline.size(); ++stage) {
    std::string row(static_cast<size_t>(columns), '.');
    for (const SimulatedOp& op : simulation.timeline[stage]) {
      const auto begin = static_cast<size_t>(std::lround(op.begin * scale));
      const auto end = static_cast<size_t>(std::lround(op.end * scale));
      const std::string name = schedule_text({op.op}, simulation.chunks);
      for (size_t at = begin; at < std::min(end, row.size()); ++at) {
        row[at] = at - begin < name.size() ? name[at - begin] : '-';
      }
    }
    out += cat("stage ", stage, stage < 10 ? "  " : " ", row, '\n');
  }
  return out;
}

std::string timeline_trace(const Simulation& simulation) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  for (size_t stage = 0; stage < simulation.timeline.size(); ++stage) {
    events.push_back({{"name", "thread_name"},
                      {"ph", "M"},
                      {"pid", 0},
                      {"tid", stage},
                      {"args", {{"name", cat("stage ", stage)}}}});
    for (const SimulatedOp& op : simulation.timeline[stage]) {
      events.push_back({{"name", schedule_text({op.op}, simulation.chunks)},
                        {"cat", std::string(1, "FBIW"[static_cast<int>(op.op.kind)])},
                        {"ph", "X"},
                        {"pid", 0},
                        {"tid", stage},
                        {"ts", op.begin * 1e6},
                        {"dur", (op.end - op.begin) * 1e6}});
    }
  }
  return nlohmann::ordered_json({{"traceEvents", events}, {"displayTimeUnit", "ms"}}).dump(1) +
         "\n";
}

}  // namespace strata
