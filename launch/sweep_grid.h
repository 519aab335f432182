#pragma once
// The grid of `strata sweep`: which points there are, what each is called, and what their results
// say together. Pure functions; launch/sweep_runs.h runs the points.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/run_config.h"

namespace strata {

// One swept key. --set optim.lr=1e-3,2e-3; where a value has commas itself, semicolons separate:
// --set "optim.betas=0.9,0.95;0.9,0.99".
struct SweepAxis {
  std::string key;  // "optim.lr"
  std::vector<std::string> values;
};

struct SweepPoint {
  std::string name;  // "lr=1e-3,name=muon": a folder name, unique in the grid
  Overrides values;  // one for each axis, in their order
};

// What came of a point so far.
struct SweepResult {
  enum class State {
    Waiting,   // nothing yet, or stopped on the way: goes on the next time
    Finished,  //
    Diverged,  // exit code 6, or a final loss that is not finite or above that of the first step
    Failed,    // any other exit code
  };
  State state = State::Waiting;
  int exit_code = -1;   // of the last process; -1: none ended yet
  std::string message;  // why it failed
  int64_t steps = 0;    // done
  // Mean over the last twentieth of the steps done, at least one step. The last step alone says
  // more about its batch than about the run.
  std::optional<double> train_loss;
  std::optional<double> eval_loss;  // of the last step
  double tokens_per_s = 0;          // median over the steps, without the first
  double step_time_s = 0;           // all steps together; saving and evaluation are not in it
  // Step and train loss of every step; NaN where it was not finite.
  std::vector<std::pair<double, double>> curve;

  // What points are compared by: the validation loss where there is one.
  std::optional<double> score() const { return eval_loss ? eval_loss : train_loss; }
};
const char* state_name(SweepResult::State state);

struct Sweep {
  std::vector<SweepAxis> axes;
  std::vector<SweepPoint> points;
  std::vector<SweepResult> results;  // as points
};

// Throws ConfigError for a word that is no KEY=VALUES, a key twice, a value twice, or a key of
// [run], which the sweep sets itself.
std::vector<SweepAxis> parse_sweep_axes(const std::vector<std::string>& words);

// All combinations, the last axis running fastest.
std::vector<SweepPoint> sweep_points(const std::vector<SweepAxis>& axes);

// The results of metrics.jsonl's text, everything but state, exit code and message.
SweepResult read_metrics(const std::string& text);
// The state that follows from the end of a process and its metrics.
SweepResult::State judge(const SweepResult& result, int exit_code);

// Numbers of the points with a score and the state Finished, best first; equal ones in grid order.
std::vector<size_t> ranking(const Sweep& sweep);

// The best point of each value of `key` in the order of its values; of all points when `key` is
// empty. Values whose points all failed are left out.
struct SweepBest {
  std::string value;  // of the key; "" without one
  size_t point;
  // "optim.lr: best at the largest value, 0.01: extend it upwards"; for each swept number whose
  // best value is at the end of the range, other keys at their best.
  std::vector<std::string> advice;
};
std::vector<SweepBest> sweep_best(const Sweep& sweep, const std::string& key);

}  // namespace strata
