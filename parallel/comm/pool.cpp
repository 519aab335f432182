#include "parallel/comm/pool.h"

#include <ATen/ops/ones.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {

namespace pool_detail {

// "[0,1]", "[0..7]", "[0..14 by 2]", otherwise the list.
std::string ranks_text(const std::vector<int>& ranks) {
  if (ranks.size() > 3) {
    const int by = ranks[1] - ranks[0];
    bool even = true;
    for (size_t i = 1; i < ranks.size(); ++i) even = even && ranks[i] - ranks[i - 1] == by;
    if (even)
      return cat("[", ranks.front(), "..", ranks.back(), by == 1 ? std::string() : cat(" by ", by),
                 "]");
  }
  std::vector<std::string> parts;
  for (const int r : ranks) parts.push_back(std::to_string(r));
  return "[" + join(parts, ",") + "]";
}

bool whole_job(std::span<const int> ranks, const Communicator& job) {
  return std::equal(ranks.begin(), ranks.end(), job.ranks().begin(), job.ranks().end());
}

}  // namespace pool_detail

CommPool::CommPool(std::unique_ptr<Communicator> job) : job_(std::move(job)) {}

CommPool::~CommPool() {
  channels_.clear();
  groups_.clear();  // before the job they were made from
}

void CommPool::create(std::vector<std::vector<int>> groups) {
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  const int me = job_->rank();
  for (const std::vector<int>& ranks : groups) {
    const bool member = std::find(ranks.begin(), ranks.end(), me) != ranks.end();
    if (!member || ranks.size() == static_cast<size_t>(job_->size()) || groups_.count(ranks) > 0)
      continue;
    groups_.emplace(ranks, make(ranks, "group" + pool_detail::ranks_text(ranks)));
  }
}

std::unique_ptr<Communicator> CommPool::make(const std::vector<int>& ranks,
                                             const std::string& name) {
  auto group = job_->subgroup(ranks, name);
  if (group->size() > 1) {
    // Pays for lazy set-up and finds bad links now instead of in the first step.
    const Tensor one = group->allocate(1, at::ScalarType::Float);
    one.fill_(1);
    group->all_reduce(one, ReduceOp::Sum, {0, SiteOp::Startup}).wait_host();
    const float sum = group->backend() == "null" ? 0 : one.item<float>();
    if (group->backend() != "null" && sum != static_cast<float>(group->size())) {
      throw CommError(cat("communicator ", name, ": the sum of ones over ", group->size(),
                          " ranks gave ", sum));
    }
  }
  order_.push_back(group.get());
  return group;
}

void CommPool::create_channels(std::vector<std::pair<int, int>> pairs) {
  std::sort(pairs.begin(), pairs.end());
  const int me = job_->rank();
  for (const auto& pair : pairs) {
    for (const bool gradient : {false, true}) {
      const auto [from, to] = gradient ? std::pair(pair.second, pair.first) : pair;
      if (me != from && me != to) continue;
      auto& channel = channels_[{from, to, gradient}];
      if (channel) continue;
      channel = make({std::min(from, to), std::max(from, to)},
                     cat(gradient ? "gradients" : "activations", "[", from, "->", to, "]"));
      channel->use_own_queue();
    }
  }
}

Communicator& CommPool::channel(int from, int to, bool gradient) {
  const auto found = channels_.find({from, to, gradient});
  STRATA_CHECK(found != channels_.end(), cat("no channel from rank ", from, " to rank ", to));
  return *found->second;
}

Communicator& CommPool::group(std::span<const int> ranks) {
  if (pool_detail::whole_job(ranks, *job_)) return *job_;
  const std::vector<int> key(ranks.begin(), ranks.end());
  auto found = groups_.find(key);
  if (found == groups_.end() && key.size() == 1) {
    // A group of one needs nobody else, so it may be made at any time.
    found = groups_.emplace(key, job_->subgroup(key, "group" + pool_detail::ranks_text(key))).first;
  }
  STRATA_CHECK(found != groups_.end(),
               cat("group", pool_detail::ranks_text(key), " was not created"));
  return *found->second;
}

std::vector<Communicator*> CommPool::all() {
  std::vector<Communicator*> list{job_.get()};
  list.insert(list.end(), order_.begin(), order_.end());
  return list;
}

}  // namespace strata
