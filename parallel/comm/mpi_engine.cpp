#include "parallel/comm/mpi_engine.h"

#include <sched.h>
#include <time.h>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace mpi_engine_detail {

constexpr std::chrono::milliseconds kYieldFor(5);
constexpr long kSleepNs = 20'000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace mpi_engine_detail

void Backoff::pause() {
  namespace md = mpi_engine_detail;
  if (rounds_++ == 0) {
    begin_ = std::chrono::steady_clock::now();
    return;
  }
  if (spin_.count() > 0 && rounds_ % 8 != 0) return md::relax();
  const auto waited = std::chrono::steady_clock::now() - begin_;
  if (waited < spin_) return md::relax();
  if (waited < md::kYieldFor) {
    sched_yield();
    return;
  }
  const timespec nap{0, md::kSleepNs};
  nanosleep(&nap, nullptr);
}

void MpiTask::finish() {
  done_ = true;
  for (int i = 0; i < records_; ++i) log_->done(record_ + i);
  release();
}

bool MpiTask::poll() {
  if (!done_ && !failure_) engine_->progress();
  if (failure_) std::rethrow_exception(failure_);
  return done_;
}

void MpiTask::wait() {
  if (!done_ && !failure_) {
    for (int i = 0; i < records_; ++i) log_->waiting(record_ + i);
    Backoff backoff(engine_->spin_);
    while (!done_ && !failure_) {
      const uint64_t moves = engine_->moves_;
      engine_->progress();
      if (engine_->moves_ != moves) {
        backoff.reset();
      } else {
        backoff.pause();
      }
    }
  }
  if (failure_) std::rethrow_exception(failure_);
}

Work MpiEngine::submit(std::shared_ptr<MpiTask> task, const std::shared_ptr<MpiQueue>& queue,
                       const std::shared_ptr<OpLog>& log, const CommOperation& operation) {
  task->engine_ = shared_from_this();
  if (log && operation.records > 0) {
    task->log_ = log;
    task->record_ = operation.record;
    task->records_ = operation.records;
  }
  if (!queue) {
    run(*task);
    if (task->failure_) std::rethrow_exception(task->failure_);
    if (task->done_) return Work();
    loose_.push_back(task);
    return Work(std::move(task));
  }
  if (queue->failed_) {
    throw CommError(cat("communicator ", queue->communicator_, ": ", comm_op_name(operation.op),
                        " #", operation.sequence, " cannot run after an earlier operation failed"));
  }
  queue->tasks_.push_back(task);
  if (queue->tasks_.size() == 1) advance(*queue);
  if (task->failure_) std::rethrow_exception(task->failure_);
  if (task->done_) return Work();
  if (!queue->listed_) {
    queue->listed_ = true;
    queues_.push_back(queue);
  }
  return Work(std::move(task));
}

void MpiEngine::run(MpiTask& task) {
  try {
    if (task.advance()) {
      ++moves_;
      task.finish();
    }
  } catch (...) {
    task.failure_ = std::current_exception();
    task.release();
  }
}

void MpiEngine::advance(MpiQueue& queue) {
  while (!queue.tasks_.empty()) {
    const std::shared_ptr<MpiTask> task = queue.tasks_.front();
    run(*task);
    if (task->failure_) {
      queue.failed_ = true;
      for (auto& later : queue.tasks_) later->failure_ = task->failure_;
      queue.tasks_.clear();
      return;
    }
    if (!task->done_) return;
    queue.tasks_.pop_front();
  }
}

void MpiEngine::progress() {
  if (inside_) return;  // a tensor's release may drop the last handle of something that polls
  inside_ = true;
  std::exception_ptr failure;
  for (size_t i = 0; i < queues_.size();) {
    MpiQueue& queue = *queues_[i];
    const std::shared_ptr<MpiTask> head = queue.tasks_.front();
    advance(queue);
    if (head->failure_ && !failure) failure = head->failure_;
    if (!queue.tasks_.empty()) {
      ++i;
      continue;
    }
    queue.listed_ = false;
    queues_.erase(queues_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  for (size_t i = 0; i < loose_.size();) {
    MpiTask& task = *loose_[i];
    run(task);
    if (task.failure_ && !failure) failure = task.failure_;
    if (task.done_ || task.failure_) {
      loose_.erase(loose_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  inside_ = false;
  if (failure) std::rethrow_exception(failure);
}

}  // namespace strata
