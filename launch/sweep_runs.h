#pragma once
// Runs the points of a sweep as processes of their own, several at a time, each in its run
// directory <out>/<name of the point>. What happened is read back from those directories, so an
// interrupted sweep goes on where it stopped, and a point goes on from its newest checkpoint.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "launch/sweep_grid.h"

namespace strata {

struct SweepOptions {
  std::string file;                                // the run file
  Overrides overrides;                             // of every point
  std::filesystem::path out;                       // where the run directories are
  int jobs = 1;                                    // points at a time
  int ranks = 1;                                   // of each point
  std::string launcher = "mpirun --bind-to none";  // words before -n RANKS, where ranks > 1
  int threads = 0;                                 // of each rank; 0: as the run file says
  ExtraFamilies families;
};

// The command of one point. Pure.
std::vector<std::string> point_command(const SweepOptions& options, const SweepPoint& point,
                                       const std::string& program);

// Reads the configuration of every point, so that a wrong key or value is found before anything
// runs, and compares with the config.ini that an earlier sweep left in a point's directory. Throws
// ConfigError naming the point.
void check_points(const SweepOptions& options, const Sweep& sweep);

// What the directory of a point says about it.
SweepResult read_point(const std::filesystem::path& run_directory);

// Runs every point that is not finished, and reads all results into the sweep. A failed point is
// tried again by the next sweep; a diverged one is not, it would diverge again. `report` is called
// whenever a point begins (running = true) or has ended. Ends early, with the points that ran
// asked to save, once a stop was requested (launch/signals.h); false then.
using PointReport = std::function<void(size_t point, bool running)>;
bool run_points(const SweepOptions& options, Sweep& sweep, const PointReport& report);

}  // namespace strata
