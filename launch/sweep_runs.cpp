#include "launch/sweep_runs.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "launch/handshake.h"
#include "launch/signals.h"

namespace strata {
namespace sweep_runs_detail {

using State = SweepResult::State;

// Settings that change neither the training nor its results.
bool irrelevant(const std::string& key) {
  return starts_with(key, "run.") || starts_with(key, "log.") || starts_with(key, "runtime.") ||
         starts_with(key, "comm.") || starts_with(key, "sample.") || starts_with(key, "ckpt.");
}

std::map<std::string, std::string> relevant_facts(const std::string& ini) {
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : config_facts(ini)) {
    if (!irrelevant(key)) out[key] = value;
  }
  return out;
}

// "" or the first setting in which two configurations differ.
std::string difference(const std::string& before, const std::string& now) {
  const auto old = relevant_facts(before), fresh = relevant_facts(now);
  for (const auto& [key, value] : fresh) {
    const auto found = old.find(key);
    const std::string was = found == old.end() ? "not there" : found->second;
    if (was != value) return cat(key, " was ", was, " and is ", value);
  }
  for (const auto& [key, value] : old) {
    if (fresh.count(key) == 0) return cat(key, " was ", value, " and is not there");
  }
  return "";
}

Overrides overrides_of(const SweepOptions& options, const SweepPoint& point) {
  Overrides all = options.overrides;
  all.insert(all.end(), point.values.begin(), point.values.end());
  all.emplace_back("run.dir", (options.out / point.name).string());
  return all;
}

std::string last_line(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return "";
  std::string out;
  for (const std::string& line : split(io::read_text(file), '\n')) {
    if (!trim(line).empty()) out = std::string(trim(line));
  }
  return out;
}

constexpr const char* kOutput = "output.txt";

// In the new process: only calls that are safe between fork and exec.
[[noreturn]] void become(const std::vector<char*>& words, int input, int output) {
  ::setpgid(0, 0);  // Ctrl-C is for the sweep, which asks its points to save
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::dup2(input, STDIN_FILENO);  // a launcher that reads a terminal from behind is stopped
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  ::execvp(words[0], words.data());
  constexpr int kNotFound = 127;
  ::_exit(kNotFound);
}

pid_t start(const std::vector<std::string>& command, const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  const std::string file = (directory / kOutput).string();
  const int output =
      error ? -1 : ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output < 0) throw StorageError(cat(file, ": cannot be written: ", std::strerror(errno), "."));
  const int input = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  std::vector<std::string> owned = command;
  std::vector<char*> words;
  for (std::string& word : owned) words.push_back(word.data());
  words.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) become(words, input, output);
  ::close(input);
  ::close(output);
  if (child < 0)
    throw StorageError(cat("a process could not be started: ", std::strerror(errno), "."));
  return child;
}

int code_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// The points that run now.
class Pool {
 public:
  Pool(const SweepOptions& options, Sweep& sweep, const PointReport& report)
      : options_(options),
        sweep_(sweep),
        report_(report),
        program_(std::filesystem::read_symlink("/proc/self/exe").string()) {}
  ~Pool() {
    for (const auto& [child, point] : running_) ::kill(-child, SIGTERM);
    for (const auto& [child, point] : running_) ::waitpid(child, nullptr, 0);
  }

  void begin(size_t point) {
    const SweepPoint& p = sweep_.points[point];
    running_[start(point_command(options_, p, program_), options_.out / p.name)] = point;
    report_(point, true);
  }

  // Waits a moment for a point to end.
  void wait() {
    for (auto it = running_.begin(); it != running_.end();) {
      int status = 0;
      if (::waitpid(it->first, &status, WNOHANG) == 0) {
        ++it;
        continue;
      }
      end(it->second, code_of(status));
      it = running_.erase(it);
    }
    if (!running_.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }

  void ask_to_stop() {
    for (const auto& [child, point] : running_)
      io::write_text_atomic(options_.out / sweep_.points[point].name / "STOP", "");
  }
  size_t size() const { return running_.size(); }

 private:
  void end(size_t point, int code) {
    const std::filesystem::path directory = options_.out / sweep_.points[point].name;
    SweepResult result = read_point(directory);
    result.exit_code = code;
    result.state = judge(result, code);
    if (result.state == State::Failed && result.message.empty())
      result.message = last_line(directory / kOutput);
    sweep_.results[point] = std::move(result);
    report_(point, false);
  }

  const SweepOptions& options_;
  Sweep& sweep_;
  const PointReport& report_;
  std::string program_;
  std::map<pid_t, size_t> running_;
};

}  // namespace sweep_runs_detail

std::vector<std::string> point_command(const SweepOptions& options, const SweepPoint& point,
                                       const std::string& program) {
  std::vector<std::string> words;
  if (options.ranks > 1) {
    for (const std::string& word : split(options.launcher, ' ')) {
      if (!word.empty()) words.push_back(word);
    }
    words.insert(words.end(), {"-n", cat(options.ranks)});
  }
  words.insert(words.end(), {program, "train", options.file});
  for (const auto& [key, value] : sweep_runs_detail::overrides_of(options, point))
    words.push_back(cat("--", key, "=", value));
  if (options.threads > 0) words.push_back(cat("--runtime.threads=", options.threads));
  return words;
}

void check_points(const SweepOptions& options, const Sweep& sweep) {
  using namespace sweep_runs_detail;
  for (const SweepPoint& point : sweep.points) {
    std::string ini;
    try {
      ini = read_run_config({.path = options.file,
                             .overrides = overrides_of(options, point),
                             .families = options.families})
                .ini;
    } catch (const ConfigError& error) {
      std::vector<std::string> problems = error.problems();
      for (std::string& problem : problems) problem = cat(point.name, ": ", problem);
      throw ConfigError(std::move(problems));
    }
    const std::filesystem::path before = options.out / point.name / "config.ini";
    if (!std::filesystem::exists(before)) continue;
    const std::string what = difference(io::read_text(before), ini);
    if (!what.empty())
      throw ConfigError(
          "--out",
          cat(options.out.string(), ", where ", point.name, " was trained otherwise: ", what),
          "a folder for this sweep alone", " Give another --out, or delete what is there");
  }
}

SweepResult read_point(const std::filesystem::path& run_directory) {
  SweepResult result;
  if (std::filesystem::exists(run_directory / "metrics.jsonl"))
    result = read_metrics(io::read_text(run_directory / "metrics.jsonl"));
  if (!std::filesystem::exists(run_directory / "status.json")) return result;
  const auto status =
      nlohmann::json::parse(io::read_text(run_directory / "status.json"), nullptr, false);
  if (!status.is_object()) return result;
  result.exit_code = status.value("exit_code", -1);
  result.message = status.value("message", "");
  result.state = judge(result, result.exit_code);
  return result;
}

bool run_points(const SweepOptions& options, Sweep& sweep, const PointReport& report) {
  using namespace sweep_runs_detail;
  std::vector<size_t> waiting;
  sweep.results.assign(sweep.points.size(), {});
  for (size_t i = 0; i < sweep.points.size(); ++i) {
    sweep.results[i] = read_point(options.out / sweep.points[i].name);
    const State state = sweep.results[i].state;
    if (state == State::Waiting || state == State::Failed) waiting.push_back(i);
  }
  Pool pool(options, sweep, report);
  auto next = waiting.begin();
  bool asked = false;
  while (pool.size() > 0 || (next != waiting.end() && !asked)) {
    if (!asked && pending_request() == Request::Stop) {
      pool.ask_to_stop();
      asked = true;
    }
    if (!asked && next != waiting.end() && pool.size() < static_cast<size_t>(options.jobs)) {
      pool.begin(*next++);
    } else {
      pool.wait();
    }
  }
  return !asked;
}

}  // namespace strata
