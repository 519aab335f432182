#pragma once
// One communicator per distinct set of ranks, made once at build time and handed out by reference:
// a plan of forty layers with three distinct layouts makes communicators for three layouts.
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "parallel/comm/communicator.h"

namespace strata {

class CommPool {
 public:
  explicit CommPool(std::unique_ptr<Communicator> job);
  ~CommPool();

  Communicator& job() noexcept { return *job_; }

  // Creates the groups that contain this rank, in increasing order of their rank tuples (so all
  // ranks agree), and checks each with a one-element all_reduce. Collective over the job; every
  // rank passes the same list. Idempotent.
  void create(std::vector<std::vector<int>> groups);

  // The group of these job ranks (increasing). It must have been created, be the whole job, or have
  // one member.
  Communicator& group(std::span<const int> ranks);

  // A communicator for each directed pair of job ranks (from, to) that activations take, and one
  // for the gradients that come back, apart from create()'s groups and with queues of their own:
  // transfers of one channel never wait behind another's. Collective over the job; every rank
  // passes the same list. Idempotent.
  void create_channels(std::vector<std::pair<int, int>> pairs);
  // gradient: from and to are those of the gradient.
  Communicator& channel(int from, int to, bool gradient);

  std::vector<Communicator*> all();  // job first, then in creation order

 private:
  std::unique_ptr<Communicator> job_;
  std::unique_ptr<Communicator> make(const std::vector<int>& ranks, const std::string& name);

  std::map<std::vector<int>, std::unique_ptr<Communicator>> groups_;
  std::map<std::tuple<int, int, bool>, std::unique_ptr<Communicator>> channels_;
  std::vector<Communicator*> order_;  // of creation
};

}  // namespace strata
