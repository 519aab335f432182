#pragma once
// What a schedule costs, without running it: an event simulation with given times per operation.
// Used to prove that lists terminate, for the peaks in the memory report, and printed beside
// measured times. Pure.
#include <functional>
#include <string>
#include <vector>

#include "parallel/plan/schedule.h"

namespace strata {

struct SimulationCosts {
  // Seconds (any unit) of an operation of a stage.
  std::function<double(int stage, const ScheduleOp& op)> op;
  double transfer = 0;  // from the end of the producing operation to the arrival
};
// F = I = W = 1 / chunks, B = 2 / chunks: the unit of the tables in parallel-runtime.md 7.2.
SimulationCosts unit_costs(int chunks);

// The stage computes while its sends travel, and posts its next receives ahead: what the engine
// does. `blocking` models a program that waits for each send and receive in list order, and shows
// why that would not do.
struct SimulationOptions {
  int receive_buffers = 1;  // receives posted ahead per channel
  bool blocking = false;
};

struct SimulatedOp {
  ScheduleOp op;
  double begin = 0, end = 0;
};
struct Simulation {
  int chunks = 1;
  bool deadlock = false;
  std::string why;  // of a deadlock: which stage waits for what
  double makespan = 0;
  std::vector<std::vector<SimulatedOp>> timeline;  // per stage
  std::vector<int> peak_live;  // per stage: most chunk activations held at once, from F to B or W
  std::vector<double> idle;    // per stage: makespan minus busy time

  double bubble_share() const;  // idle time of all stages / (stages * makespan)
};
// Any schedule: lists whose channels disagree end as a deadlock too.
Simulation simulate(const Schedule& schedule, const SimulationCosts& costs,
                    const SimulationOptions& options = {});

// Stages as rows of text, time from left to right, `columns` wide: an operation begins with its
// letter and micro-batch as far as they fit ("F0", "F0.1") and goes on as dashes; dots are idle.
std::string timeline_text(const Simulation& simulation, int columns = 100);

// Chrome trace events (chrome://tracing, Perfetto): a row per stage, the times taken as seconds.
std::string timeline_trace(const Simulation& simulation);

}  // namespace strata
