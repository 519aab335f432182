#pragma once
// Activations and gradients on their way between pipeline stages. Rank g of a stage talks to rank g
// of its neighbours; every kind and pair of ranks is a communicator of its own, so no transfer
// waits behind one of another kind (parallel-runtime.md 7.4). Sends never block; of each channel
// the next receive is posted before the present one is used.
#include <deque>
#include <functional>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/pool.h"
#include "parallel/plan/plan.h"
#include "parallel/plan/schedule.h"

namespace strata {

// Job ranks that a channel joins, for all channels of a plan: what CommPool::create_channels()
// takes.
std::vector<std::pair<int, int>> pipeline_pairs(const Plan& plan);

class PipelineLinks {
 public:
  PipelineLinks(const Plan& plan, CommPool& pool) : plan_(&plan), pool_(&pool) {}

  // An empty tensor of the form that a transfer has on this rank.
  using Form = std::function<Tensor(const PipelineTransfer&)>;
  // receives: all of this rank in the order in which it will ask for them.
  void begin(std::vector<PipelineTransfer> receives, Form form);
  Tensor receive(const PipelineTransfer& transfer);
  void send(const PipelineTransfer& transfer, const Tensor& tensor);
  void finish();  // waits until everything sent has left

  double waited_s() const noexcept { return waited_s_; }  // for receives, since begin()

 private:
  using Channel = std::tuple<bool, int, int>;  // gradient, from, to
  struct Posted {
    PipelineTransfer transfer;
    Tensor tensor;
    Work work;
  };
  Work exchange(const PipelineTransfer& transfer, Transfer::Kind kind, const Tensor& tensor,
                int peer_stage);
  void post_next(const Channel& channel);

  const Plan* plan_;
  CommPool* pool_;
  Form form_;
  std::map<Channel, std::deque<PipelineTransfer>> expected_;
  std::map<Channel, std::deque<Posted>> posted_;
  std::deque<Work> sending_;
  double waited_s_ = 0;
};

}  // namespace strata
