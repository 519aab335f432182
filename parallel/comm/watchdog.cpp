#include "parallel/comm/watchdog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "parallel/comm/op_log.h"

namespace strata {
namespace watchdog_detail {

using Clock = std::chrono::steady_clock;

// Steps slower than this multiple of the median are a hang; until enough steps are timed, a fixed
// deadline holds.
constexpr double kMedianFactor = 20, kLeastStepS = 60, kUntimedStepS = 300, kExitS = 60;
constexpr size_t kStepsToTime = 20, kStepsKept = 101;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

const char* phase_name(Watchdog::Phase phase) {
  switch (phase) {
    case Watchdog::Phase::Start:
      return "start";
    case Watchdog::Phase::Load:
      return "load";
    case Watchdog::Phase::FirstStep:
      return "first step";
    case Watchdog::Phase::Step:
      return "step";
    case Watchdog::Phase::Evaluate:
      return "evaluate";
    case Watchdog::Phase::Save:
      return "save";
    case Watchdog::Phase::Exit:
      return "exit";
  }
  return "unknown";
}

// Tells one version of a file from a later one of the same name; nothing: there is no file.
struct FileIdentity {
  ino_t inode;
  int64_t changed_ns;
  bool operator==(const FileIdentity&) const = default;
};
std::optional<FileIdentity> identity(const std::filesystem::path& file) {
  struct stat s {};
  if (stat(file.c_str(), &s) != 0) return std::nullopt;
  return FileIdentity{s.st_ino, s.st_ctim.tv_sec * 1'000'000'000 + s.st_ctim.tv_nsec};
}

}  // namespace watchdog_detail

struct Watchdog::Impl {
  Impl(Options o, std::shared_ptr<OpLog> l)
      : options(std::move(o)), log(std::move(l)), hang(options.run_dir / "hang") {
    std::error_code ignored;
    std::filesystem::create_directories(hang, ignored);
    if (!std::filesystem::is_directory(hang)) {
      throw StorageError(cat("watchdog: folder ", hang.string(), " cannot be made"));
    }
    if (options.rank == 0) {
      // What an earlier run left behind; other ranks ignore the old trigger by its identity.
      for (const auto& entry : std::filesystem::directory_iterator(hang, ignored)) {
        std::filesystem::remove(entry.path(), ignored);
      }
    }
    old_trigger = watchdog_detail::identity(trigger());
    std::filesystem::remove(alive_file(options.rank), ignored);
    thread = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    thread.join();
  }

  std::filesystem::path trigger() const { return hang / "trigger"; }
  std::filesystem::path report_file() const { return hang / "report.txt"; }
  std::filesystem::path alive_file(int rank) const { return hang / cat("rank-", rank, ".alive"); }

  // Seconds allowed for the phase now running. Caller holds the mutex.
  double deadline_s() const {
    namespace wd = watchdog_detail;
    switch (phase) {
      case Phase::Start:
        return options.start_s;
      case Phase::Load:
        return options.load_s;
      case Phase::FirstStep:
        return options.first_step_s;
      case Phase::Save:
        return options.load_s;
      case Phase::Exit:
        return wd::kExitS;
      case Phase::Step:
      case Phase::Evaluate:
        break;
    }
    if (options.step_s > 0) return options.step_s;
    if (steps.size() < wd::kStepsToTime) return wd::kUntimedStepS;
    std::vector<double> sorted = steps;
    std::nth_element(sorted.begin(),
                     sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
    return std::max(wd::kLeastStepS, wd::kMedianFactor * sorted[sorted.size() / 2]);
  }

  void run() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!stop) {
      const double period = std::clamp(std::min(deadline_s(), options.grace_s) / 10, 0.005, 1.0);
      wake.wait_for(lock, std::chrono::duration<double>(period));
      if (stop) return;
      const bool expired = watchdog_detail::seconds_since(begin) > deadline_s();
      const std::string why =
          cat("rank ", options.rank, ": no progress in phase ", watchdog_detail::phase_name(phase),
              " for ", duration_text(deadline_s()));
      lock.unlock();
      if (expired) pull_trigger(why);
      const auto now = watchdog_detail::identity(trigger());
      if (now && now != old_trigger) {
        finish();
        return;
      }
      lock.lock();
    }
  }

  // The first rank wins; that it existed already is as good.
  void pull_trigger(const std::string& why) {
    if (watchdog_detail::identity(trigger()) == old_trigger) {
      std::error_code ignored;
      std::filesystem::remove(trigger(), ignored);
    }
    const int fd = open(trigger().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return;
    const std::string line = why + "\n";
    if (write(fd, line.data(), line.size()) < 0)
      log::warn("watchdog: the trigger file could not be written");
    close(fd);
  }

  // Everybody who still runs says so; after the grace time the lowest of them reports.
  void finish() {
    std::ofstream(alive_file(options.rank)) << "alive\n";
    pause_for(options.grace_s);
    int reporter = options.rank;
    for (int r = options.rank - 1; r >= 0; --r) {
      if (std::filesystem::exists(alive_file(r))) reporter = r;
    }
    // A rank that slept through all this (SIGSTOP) must not replace what was found while it slept.
    if (std::filesystem::exists(report_file())) {
      log::error("the run hangs; see ", report_file().string());
    } else if (reporter == options.rank) {
      report();
    } else {
      // The launcher ends all ranks when the first one leaves: let the reporter finish.
      const auto since = watchdog_detail::Clock::now();
      while (!std::filesystem::exists(report_file()) &&
             watchdog_detail::seconds_since(since) < options.grace_s + 5) {
        pause_for(0.02);
      }
    }
    if (options.on_hang) options.on_hang();
  }

  void pause_for(double seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }

  void report() {
    std::string text;
    std::ifstream cause(trigger());
    std::string line;
    if (std::getline(cause, line)) text += line + "\n";
    std::vector<FlightRecord> ranks;
    for (int r = 0; r < options.world; ++r) {
      const auto file = flight_file(options.run_dir, r);
      try {
        ranks.push_back(read_flight_record(file));
      } catch (const DataError& error) {
        text += cat("rank ", r, ": ", error.what(), "\n");
      }
    }
    text += analyse_hang(ranks);
    const auto part = hang / "report.txt.part";
    {
      std::ofstream out(part);
      out << text;
    }
    std::error_code ignored;
    std::filesystem::rename(part, report_file(), ignored);
    log::error("the run hangs\n", text);
  }

  const Options options;
  const std::shared_ptr<OpLog> log;
  const std::filesystem::path hang;
  std::optional<watchdog_detail::FileIdentity> old_trigger;

  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  Phase phase = Phase::Start;
  watchdog_detail::Clock::time_point begin = watchdog_detail::Clock::now();
  std::vector<double> steps;  // durations, a ring
  size_t next_step = 0;
  std::thread thread;
};

Watchdog::Watchdog(Options options, std::shared_ptr<OpLog> log)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(log))) {}

Watchdog::~Watchdog() = default;

void Watchdog::enter(Phase phase) {
  Impl& m = *impl_;
  const std::lock_guard<std::mutex> lock(m.mutex);
  if (m.phase == Phase::Step && phase == Phase::Step) {
    const double seconds = watchdog_detail::seconds_since(m.begin);
    if (m.steps.size() < watchdog_detail::kStepsKept) {
      m.steps.push_back(seconds);
    } else {
      m.steps[m.next_step++ % watchdog_detail::kStepsKept] = seconds;
    }
  }
  m.phase = phase;
  m.begin = watchdog_detail::Clock::now();
}

}  // namespace strata
