#pragma once
// Ends a hung run with a report instead of waiting for ever: a thread per rank that knows the
// current phase's deadline. It calls no MPI and no NCCL. On expiry it writes hang/trigger in the
// run directory (first rank wins), every rank's watchdog sees it, the lowest live rank writes
// hang/report.txt with analyse_hang() and prints it, then `on_hang` is called on every rank
// (launch/ passes _exit(7)). Deadlines use the monotonic clock (decisions E9).
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>

namespace strata {

class OpLog;

class Watchdog {
 public:
  struct Options {
    std::filesystem::path run_dir;  // flight/ and hang/ live here
    int rank = 0, world = 1;
    double start_s = 300, load_s = 300, first_step_s = 600,
           step_s = 0;    // step_s 0: max(60, 20 x median step)
    double grace_s = 10;  // between trigger and report
    std::function<void()> on_hang;
  };
  Watchdog(Options options, std::shared_ptr<OpLog> log);
  ~Watchdog();

  // Evaluate: one batch of an evaluation or one token of a sample; it has a step's deadline.
  enum class Phase { Start, Load, FirstStep, Step, Evaluate, Save, Exit };
  // Restarts the clock; a step's duration is learnt from one Step to the next.
  void enter(Phase phase);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
