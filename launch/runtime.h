#pragma once
// This process within its job, from MPI_Init to MPI_Finalize: communicators, device, threads, run
// directory, log file, flight record and watchdog. Created once by a command, after the
// configuration was read and checked.
#include <functional>
#include <memory>
#include <optional>

#include "core/log.h"
#include "launch/handshake.h"
#include "launch/run_directory.h"
#include "launch/run_sections.h"
#include "parallel/comm/op_log.h"
#include "parallel/comm/pool.h"
#include "parallel/comm/process.h"
#include "parallel/comm/watchdog.h"

namespace strata {

struct RuntimeOptions {
  RuntimeSection runtime;
  CommSection comm;
  LogSection log;
  std::filesystem::path run_dir;  // empty: no run directory, no flight record, no watchdog
};

class Runtime {
 public:
  // Collective over the job. Throws AgreedError when every rank fails alike or learns of one's
  // failure; a failure that others cannot learn of ends the whole job.
  explicit Runtime(const RuntimeOptions& options);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  CommPool& pool() noexcept { return *pool_; }
  Communicator& job() noexcept { return pool_->job(); }
  int rank() noexcept { return job().rank(); }
  int world() noexcept { return job().size(); }
  bool first() noexcept { return rank() == 0; }
  at::Device device() const noexcept { return device_; }
  int threads() const noexcept { return threads_; }
  const MpiProcess& process() const noexcept { return process_; }

  RunDirectory& directory();  // only with a run_dir
  OpLog* op_log() noexcept { return op_log_.get(); }
  // What the rank does now, for the watchdog and the flight record; nothing without a run
  // directory.
  void enter(Watchdog::Phase phase, const char* what, int64_t step = -1);

  // Runs `body`, in which ranks may fail alone: such a failure is printed with the rank and ends
  // the whole job (MPI_Abort) before anything is destroyed, because destructors of others could
  // wait for this rank. AgreedError passes.
  int guard(const std::function<int()>& body);

  void flush_log();
  // A line for the log file alone; main() prints the message of an error that ends the process.
  void note_in_log(const std::string& text);

 private:
  void start(const RuntimeOptions& options);
  std::unique_ptr<Communicator> make_job(const RuntimeOptions& options);
  void start_logging(const RuntimeOptions& options);
  void open_directory(const RuntimeOptions& options);
  void start_watchdog(const RuntimeOptions& options);
  [[noreturn]] void die(const std::exception_ptr& error);

  MpiProcess process_;
  at::Device device_ = at::kCPU;
  int threads_ = 1;
  std::unique_ptr<log::Logger> logger_;
  std::optional<log::LogScope> log_scope_;
  std::optional<RunDirectory> directory_;
  std::shared_ptr<OpLog> op_log_;
  std::unique_ptr<Communicator> bootstrap_;  // MPI below NCCL
  std::unique_ptr<CommPool> pool_;
  std::unique_ptr<Watchdog> watchdog_;
  int last_words_ = -1;
};

}  // namespace strata
