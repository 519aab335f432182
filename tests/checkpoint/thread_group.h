#pragma once
// Ranks as threads of one process: what a collective save does with several ranks, testable without
// MPI. Only the byte collectives and the barrier work, which is all that checkpoints use.
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace strata::test {

// Everybody puts a text, everybody gets all of them.
class Meeting {
 public:
  explicit Meeting(int size) : texts_(static_cast<size_t>(size)) {}

  std::vector<std::string> meet(int rank, const std::string& text) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return leaving_ == 0; });
    texts_[static_cast<size_t>(rank)] = text;
    if (++arrived_ == texts_.size()) {
      leaving_ = arrived_;
      arrived_ = 0;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return leaving_ != 0; });
    }
    std::vector<std::string> all = texts_;
    if (--leaving_ == 0) changed_.notify_all();
    return all;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> texts_;
  size_t arrived_ = 0, leaving_ = 0;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(Meeting& meeting, std::vector<int> ranks, int rank)
      : Communicator(std::move(ranks), rank, "threads"), meeting_(meeting) {}
  std::string_view backend() const noexcept override { return "self"; }

 protected:
  Work do_all_reduce(const Tensor&, ReduceOp) override { return refuse(); }
  Work do_all_gather(const Tensor&, const Tensor&) override { return refuse(); }
  Work do_reduce_scatter(const Tensor&, const Tensor&) override { return refuse(); }
  Work do_reduce_scatter_parts(const Tensor&, const Tensor&, std::span<const int64_t>) override {
    return refuse();
  }
  Work do_all_gather_parts(const Tensor&, std::span<const int64_t>) override { return refuse(); }
  Work do_all_to_all(const Tensor&, const Tensor&) override { return refuse(); }
  Work do_broadcast(const Tensor&, int) override { return refuse(); }
  Work do_exchange(std::span<const Transfer>) override { return refuse(); }
  void do_barrier() override { meeting_.meet(rank(), ""); }
  void do_broadcast_bytes(std::string& bytes, int root) override {
    bytes = meeting_.meet(rank(), bytes)[static_cast<size_t>(root)];
  }
  std::vector<std::string> do_all_gather_bytes(const std::string& bytes) override {
    return meeting_.meet(rank(), bytes);
  }
  std::unique_ptr<Communicator> do_subgroup(std::vector<int>, std::string) override {
    throw InternalError("threads");
  }
  Tensor do_allocate(int64_t, at::ScalarType) override { throw InternalError("threads"); }

 private:
  static Work refuse() { throw InternalError("thread groups move bytes only"); }
  Meeting& meeting_;
};

// Runs `body` on every rank; what a rank throws comes back as its text ("" where nothing was
// thrown).
inline std::vector<std::string> on_ranks(int size, const std::function<void(Communicator&)>& body) {
  Meeting meeting(size);
  std::vector<int> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(rank);
  std::vector<std::string> thrown(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator job(meeting, ranks, rank);
      try {
        body(job);
      } catch (const std::exception& error) {
        thrown[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

}  // namespace strata::test
