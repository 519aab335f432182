// strata sweep RUN.ini --set KEY=V1,V2 ...
#include <algorithm>
#include <cmath>
#include <iostream>
#include <thread>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/launcher.h"
#include "launch/signals.h"
#include "launch/sweep_report.h"
#include "launch/sweep_runs.h"

namespace strata {
namespace cmd_sweep_detail {

constexpr int kPreempted = 75, kSomeFailed = 10;

int count_of(const CommandLine& line, const std::string& option, int otherwise) {
  const auto text = line.value(option);
  if (!text) return otherwise;
  double number = 0;
  if (!parse_number(*text, number) || number < 1 || number > 4096 || number != std::floor(number))
    throw ConfigError("--" + option, cat('"', *text, '"'), "integer from 1 to 4096");
  return static_cast<int>(number);
}

// Points that run at the same time share the cores, unless the run file says how.
int threads_for(const SweepOptions& options, const RunConfig& config) {
  if (config.runtime.threads > 0 || options.jobs == 1) return 0;
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  return std::max(1, cores / (options.jobs * options.ranks));
}

void write_reports(const Sweep& sweep, const std::string& key, const std::filesystem::path& out) {
  io::write_text_atomic(out / "sweep.json", sweep_json(sweep, key));
  io::write_text_atomic(out / "sweep.md", sweep_markdown(sweep, key));
  io::write_text_atomic(out / "sweep.svg", sweep_svg(sweep, key));
}

}  // namespace cmd_sweep_detail

int cmd_sweep(const Arguments& arguments) {
  using namespace cmd_sweep_detail;
  CommandLine line(
      "sweep", "RUN.ini --set KEY=V1,V2,... [--set ...] [--section.key=value]...",
      "Trains a run file once for every combination of the values, each in a process and a run\n"
      "directory of its own, and compares the losses at the end. The same command goes on with an\n"
      "interrupted sweep: what is finished is not run again, and the others go on from their\n"
      "checkpoints. Ctrl-C or SIGUSR1 saves what runs and ends with 75.\n\n"
      "The results are printed and written to DIR/sweep.json, sweep.md and sweep.svg. Exit codes:\n"
      "0 all points ended, diverged ones included; 10 some failed; 2 configuration; 75 stopped.");
  line.positional("RUN.ini", 1, 1);
  line.list_option("set", "KEY=V1,V2",
                   "a key and its values; \"KEY=V1;V2\" for values with commas. Several: a grid");
  line.option("out", "DIR", "where the points' run directories are; default: run.dir");
  line.option("jobs", "N", "points at a time; default 1");
  line.option("ranks", "N", "ranks of each point; more than 1: under the launcher; default 1");
  line.option("launcher", "WORDS",
              "what starts ranks, before -n N; default: mpirun --bind-to none");
  line.option("best-by", "KEY", "name the best point of each value of this swept key");
  line.flag("report", "run nothing: the results that are there");
  if (!line.parse(arguments)) return 0;

  Sweep sweep;
  sweep.axes = parse_sweep_axes(line.values("set"));
  if (sweep.axes.empty())
    throw ConfigError("--set", "nothing", "KEY=V1,V2,...", " For example --set optim.lr=1e-3,3e-3");
  sweep.points = sweep_points(sweep.axes);
  const std::string key = line.value("best-by").value_or("");
  std::vector<std::string> keys;
  for (const SweepAxis& axis : sweep.axes) keys.push_back(axis.key);
  if (!key.empty() && std::find(keys.begin(), keys.end(), key) == keys.end())
    throw ConfigError("--best-by", cat('"', key, '"'), join(keys), did_you_mean(key, keys));
  const Launcher launcher = find_launcher();
  if (launcher.present && !launcher.batch_only)
    throw ConfigError("strata sweep", "started by a launcher", "a start without one",
                      " Give --ranks N: each point is then started under mpirun");

  SweepOptions options;
  options.file = line.words()[0];
  options.overrides = line.overrides();
  options.jobs = count_of(line, "jobs", 1);
  options.ranks = count_of(line, "ranks", 1);
  options.launcher = line.value("launcher").value_or(options.launcher);
  options.families = arguments.families;
  Overrides first = options.overrides;
  for (const auto& value : sweep.points[0].values) first.push_back(value);
  const RunConfig config =
      read_run_config({.path = options.file, .overrides = first, .families = options.families});
  options.out = line.value("out").value_or(config.run.directory());
  std::erase_if(options.overrides, [](const auto& entry) { return entry.first == "run.dir"; });
  options.threads = threads_for(options, config);
  check_points(options, sweep);

  install_signal_handlers(launcher);
  const size_t all = sweep.points.size();
  size_t ended = 0;
  const auto report = [&](size_t point, bool running) {
    const SweepResult& r = sweep.results[point];
    std::cout << sweep.points[point].name;
    if (running) {
      std::cout << (r.steps > 0 ? cat(": goes on from about step ", r.steps) : ": begins") << "\n";
    } else {
      ++ended;
      std::cout << cat(": ", state_name(r.state), " at step ", r.steps);
      if (r.score()) std::cout << cat(", loss ", number_text(std::round(*r.score() * 1e4) / 1e4));
      if (r.state == SweepResult::State::Failed) std::cout << cat("; ", r.message);
      std::cout << "\n";
      write_reports(sweep, key, options.out);
    }
    std::cout.flush();
  };
  bool complete = true;
  if (line.has("report")) {
    for (const SweepPoint& point : sweep.points)
      sweep.results.push_back(read_point(options.out / point.name));
  } else {
    complete = run_points(options, sweep, report);
  }
  std::cout << (ended > 0 ? "\n" : "") << sweep_text(sweep, key);
  if (!std::filesystem::exists(options.out)) return complete ? 0 : kPreempted;
  write_reports(sweep, key, options.out);
  std::cout << cat("\n", all, all == 1 ? " point" : " points", " in ", options.out.string(),
                   "; table and charts: sweep.json, sweep.md, sweep.svg there\n");
  if (!complete) return kPreempted;
  for (const SweepResult& r : sweep.results) {
    if (r.state == SweepResult::State::Failed) return kSomeFailed;
  }
  return 0;
}

}  // namespace strata
