#pragma once
// Outstanding operations of one process. Nothing here has a thread: whoever waits for one operation
// advances all of them, so that waits on different communicators cannot block each other. Private
// to the MPI backend.
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/operation.h"
#include "parallel/comm/work.h"

namespace strata {

class MpiEngine;

// One operation. The engine holds it until it is done, whether or not somebody keeps its Work.
class MpiTask : public Work::Impl {
 public:
  void wait() final;
  bool poll() final;
  bool done() const noexcept { return done_; }

 protected:
  // Does what can be done without blocking; true when the operation is complete. Throws on failure.
  virtual bool advance() = 0;
  // Called once when the operation is complete or has failed: drop tensors.
  virtual void release() {}
  MpiEngine& engine() const noexcept { return *engine_; }

 private:
  friend class MpiEngine;
  void finish();
  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<OpLog> log_;
  uint64_t record_ = 0;
  int records_ = 0;
  bool done_ = false;
  std::exception_ptr failure_;
};

// Operations of one communicator that must run one after the other. After a failure every later one
// fails too.
class MpiQueue {
 public:
  explicit MpiQueue(std::string communicator) : communicator_(std::move(communicator)) {}

 private:
  friend class MpiEngine;
  std::string communicator_;
  std::deque<std::shared_ptr<MpiTask>> tasks_;
  bool listed_ = false, failed_ = false;
};

// Waiting politely: a short spin, then giving the core away, then short sleeps.
class Backoff {
 public:
  explicit Backoff(std::chrono::nanoseconds spin) : spin_(spin) {}
  void pause();
  void reset() noexcept { rounds_ = 0; }

 private:
  std::chrono::nanoseconds spin_;
  std::chrono::steady_clock::time_point begin_;
  uint32_t rounds_ = 0;
};

class MpiEngine : public std::enable_shared_from_this<MpiEngine> {
 public:
  explicit MpiEngine(std::chrono::nanoseconds spin) : spin_(spin) {}

  // Starts the task after those before it in the queue; with queue null, at once. Returns an empty
  // Work when it is complete already.
  Work submit(std::shared_ptr<MpiTask> task, const std::shared_ptr<MpiQueue>& queue,
              const std::shared_ptr<OpLog>& log, const CommOperation& operation);

  // Advances everything once. Throws what a failed operation threw.
  void progress();
  // Counts the waits that operations got past: while it moves, a waiter need not back off.
  void moved() noexcept { ++moves_; }

 private:
  friend class MpiTask;
  void run(MpiTask& task);
  void advance(MpiQueue& queue);

  std::chrono::nanoseconds spin_;
  uint64_t moves_ = 0;
  bool inside_ = false;
  std::vector<std::shared_ptr<MpiQueue>> queues_;  // those with tasks
  std::vector<std::shared_ptr<MpiTask>> loose_;
};

}  // namespace strata
