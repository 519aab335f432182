#include "data/prefetch.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/text.h"

namespace strata {

struct Prefetcher::Impl {
  const DataSource& source;
  const std::function<std::vector<Request>(int64_t)> requests;
  const size_t depth;

  mutable std::mutex mutex;
  std::condition_variable changed;
  int64_t expected;                      // step that next() may ask for
  std::deque<std::vector<Batch>> ready;  // steps expected, expected + 1, ...
  std::exception_ptr error;              // of the step after those in `ready`; reading has ended
  bool stop = false;
  double waited_s = 0;
  std::thread reader;

  Impl(const DataSource& source_, std::function<std::vector<Request>(int64_t)> requests_,
       int64_t first, int depth_)
      : source(source_),
        requests(std::move(requests_)),
        depth(static_cast<size_t>(std::max(depth_, 1))),
        expected(first) {}

  void read_ahead(int64_t step) {
    for (;; ++step) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return stop || ready.size() < depth; });
        if (stop) return;
      }
      std::vector<Batch> batches;
      std::exception_ptr failed;
      try {
        for (const Request& request : requests(step))
          batches.push_back(source.rows(request.begin, request.end));
      } catch (...) {
        failed = std::current_exception();
      }
      const std::lock_guard<std::mutex> lock(mutex);
      if (failed) {
        error = failed;
      } else {
        ready.push_back(std::move(batches));
      }
      changed.notify_all();
      if (failed) return;
    }
  }
};

Prefetcher::Prefetcher(const DataSource& source,
                       std::function<std::vector<Request>(int64_t step)> requests,
                       int64_t first_step, int depth)
    : impl_(std::make_unique<Impl>(source, std::move(requests), first_step, depth)) {
  // Signals are for the main thread: the reader is started with all of them blocked.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    impl_->reader = std::thread([impl = impl_.get(), first_step] { impl->read_ahead(first_step); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->changed.notify_all();
  impl_->reader.join();
}

std::vector<Batch> Prefetcher::next(int64_t step) {
  Impl& p = *impl_;
  std::unique_lock<std::mutex> lock(p.mutex);
  STRATA_CHECK(step == p.expected,
               cat("step ", step, " is asked for, step ", p.expected, " comes next"));
  if (p.ready.empty() && !p.error) {
    const auto start = std::chrono::steady_clock::now();
    p.changed.wait(lock, [&] { return !p.ready.empty() || p.error; });
    p.waited_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  if (p.ready.empty()) std::rethrow_exception(p.error);
  std::vector<Batch> out = std::move(p.ready.front());
  p.ready.pop_front();
  ++p.expected;
  p.changed.notify_all();
  return out;
}

double Prefetcher::waited_s() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->waited_s;
}

}  // namespace strata
