#include "launch/runtime.h"

#include <ATen/Context.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "core/text.h"
#include "launch/device.h"
#include "launch/failure.h"
#include "launch/launcher.h"
#include "launch/signals.h"

namespace strata {
namespace runtime_detail {

constexpr int kHang = 7;

bool wants_mpi(const RuntimeSection& config, const Launcher& launcher) {
  if (config.backend == "self") return false;
  if (config.backend == "auto") return launcher.present && mpi_built();
  return true;
}

Communicator::Check check_of(const std::string& name) {
  if (name == "off") return Communicator::Check::Off;
  return name == "each" ? Communicator::Check::Each : Communicator::Check::Step;
}

}  // namespace runtime_detail

Runtime::Runtime(const RuntimeOptions& options) {
  try {
    start(options);
  } catch (const AgreedError&) {
    // Members are destroyed on every rank now; MPI ends in order.
    watchdog_.reset();
    pool_.reset();
    bootstrap_.reset();
    log_scope_.reset();
    if (mpi_running()) finish_mpi();
    throw;
  } catch (...) {
    if (process_.size == 1) {
      pool_.reset();
      bootstrap_.reset();
      log_scope_.reset();
      if (mpi_running()) finish_mpi();
      throw;
    }
    die(std::current_exception());
  }
}

void Runtime::start(const RuntimeOptions& options) {
  if (options.runtime.deterministic != "off") {
    prepare_deterministic_environment();
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  pool_ = std::make_unique<CommPool>(make_job(options));
  together(job(), [&] { open_directory(options); });
  together(job(), [&] { start_logging(options); });
  if (op_log_) job().set_op_log(op_log_);
  together(job(), [&] { start_watchdog(options); });
  // Products of matrices depend on the number of threads, which must not depend on the layout.
  threads_ = options.runtime.threads > 0   ? static_cast<int>(options.runtime.threads)
             : options.runtime.invariant() ? 1
                                           : threads_per_rank(process_.local_size);
  set_threads(threads_);
}

std::unique_ptr<Communicator> Runtime::make_job(const RuntimeOptions& options) {
  using namespace runtime_detail;
  const Launcher launcher = find_launcher();
  const RuntimeSection& config = options.runtime;
  std::unique_ptr<Communicator> job;
  if (wants_mpi(config, launcher)) {
    process_ = start_mpi();
    job = make_mpi_communicator();
    if (process_.size == 1 && launcher.slurm_tasks > 1) {
      throw_agreed(ConfigError(
          "number of ranks", "1", cat(launcher.slurm_tasks, " (SLURM_NTASKS)"),
          " (start with srun --mpi=pmix, or set runtime.backend = self for one process)"));
    }
  } else {
    job = make_self_communicator();
  }
  job->set_check(check_of(options.comm.check));
  together(*job, [&] {
    device_ = choose_device(config, process_.local_rank, process_.local_size);
    use_device(device_);
  });
  const bool shared = config.share_devices && process_.local_size > cuda_device_count();
  const bool nccl = config.backend == "nccl" ||
                    (config.backend == "auto" && device_.is_cuda() && process_.size > 1 && !shared);
  if (!nccl) return job;
  bootstrap_ = std::move(job);
  auto out = make_nccl_communicator(*bootstrap_, device_);
  out->set_check(check_of(options.comm.check));
  return out;
}

void Runtime::open_directory(const RuntimeOptions& options) {
  if (options.run_dir.empty()) return;
  directory_.emplace(options.run_dir);
  if (first()) directory_->claim();
}

void Runtime::start_logging(const RuntimeOptions& options) {
  log::Options out;
  out.level = log::parse_level(options.log.level);
  out.rank = rank();
  out.world = world();
  out.all_ranks = options.log.ranks == "all";
  if (directory_) {
    // Rank 0 made the folders before; on a shared file system they can be seen late.
    out.file = directory_->log(rank()).string();
    op_log_ = std::make_shared<OpLog>(directory_->flight(rank()), rank(), world());
    last_words_ = ::open(out.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    set_last_words_descriptor(last_words_);
  }
  logger_ = std::make_unique<log::Logger>(out);
  log_scope_.emplace(*logger_);
}

void Runtime::start_watchdog(const RuntimeOptions& options) {
  if (!op_log_) return;
  Watchdog::Options watch;
  watch.run_dir = directory_->path();
  watch.rank = rank();
  watch.world = world();
  watch.step_s = options.runtime.step_timeout_s;
  // A short limit is for rehearsals: the report comes as quickly.
  if (watch.step_s > 0) watch.grace_s = std::clamp(watch.step_s / 2, 1.0, watch.grace_s);
  watch.on_hang = [] { ::_exit(runtime_detail::kHang); };
  watchdog_ = std::make_unique<Watchdog>(watch, op_log_);
  enter(Watchdog::Phase::Start, "start");
}

Runtime::~Runtime() {
  set_last_words_descriptor(-1);
  if (last_words_ >= 0) ::close(last_words_);
  watchdog_.reset();
  pool_.reset();
  bootstrap_.reset();
  if (mpi_running()) finish_mpi();
}

RunDirectory& Runtime::directory() {
  STRATA_CHECK(directory_.has_value(), "this command has no run directory");
  return *directory_;
}

void Runtime::enter(Watchdog::Phase phase, const char* what, int64_t step) {
  if (op_log_) op_log_->set_phase(what, step);
  if (watchdog_) watchdog_->enter(phase);
}

void Runtime::note_in_log(const std::string& text) {
  if (last_words_ < 0) return;
  const std::string line = text + "\n";
  [[maybe_unused]] const ssize_t ignored = ::write(last_words_, line.data(), line.size());
}

void Runtime::flush_log() {
  if (logger_) logger_->flush();
}

int Runtime::guard(const std::function<int()>& body) {
  try {
    return body();
  } catch (const AgreedError&) {
    throw;
  } catch (...) {
    if (world() == 1) throw;
    die(std::current_exception());
  }
}

void Runtime::die(const std::exception_ptr& error) {
  const Failure failure = describe(error);
  log::error(failure.message);
  flush_log();
  if (mpi_running()) abort_mpi(failure.code);
  ::_exit(failure.code);
}

}  // namespace strata
