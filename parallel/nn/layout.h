#pragma once
// The plan's answer for one layer on one rank: communicators and a few numbers, handed to the
// layer's constructor. A cheap value; nothing is global.
#include <cstdint>
#include <map>
#include <memory>

#include "core/tensor.h"
#include "parallel/comm/communicator.h"
#include "parallel/plan/plan.h"

namespace strata {

class ParallelLayout {
 public:
  struct Parts {
    LayerStrategy strategy;
    Communicator* tp = nullptr;  // nullptr: a group of one
    Communicator* dp = nullptr;
    // dp = shards x copies: the ranks over which ZeRO cuts, and those that hold equal parts.
    // Without ZeRO the first is a group of one, with ZeRO over all of dp the second.
    Communicator* shards = nullptr;
    Communicator* copies = nullptr;
    // Consecutive ranks of the tp group that hold the same replicated units, by their number (1 < n
    // < tp).
    std::map<int, Communicator*> replica_groups;
    uint16_t layer = 0;  // for Site
    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;
    uint64_t seed = 0;
    int64_t vocabulary_unit = 128;  // granularity of the vocabulary cut
  };
  explicit ParallelLayout(const Parts& parts);
  // One process. device = at::kMeta builds a model without storage (plan checks, parameter counts).
  static ParallelLayout serial(at::Device device = at::kCPU, at::ScalarType dtype = at::kFloat,
                               uint64_t seed = 0);

  const LayerStrategy& strategy() const noexcept { return parts_.strategy; }
  Communicator& tp() const noexcept { return *parts_.tp; }
  Communicator& dp() const noexcept { return *parts_.dp; }
  Communicator& shards() const noexcept { return *parts_.shards; }
  Communicator& copies() const noexcept { return *parts_.copies; }
  // ZeRO level in effect: 0 where the layer's state is cut into one part.
  int zero() const noexcept { return shards().size() > 1 ? parts_.strategy.zero : 0; }
  // The `ranks` consecutive members of the tp group that this rank belongs to: 1, tp, or a number
  // of replicas in use.
  Communicator& tp_subgroup(int ranks) const;
  int tp_index() const noexcept { return parts_.tp->rank(); }
  int tp_size() const noexcept { return parts_.tp->size(); }
  at::Device device() const noexcept { return parts_.device; }
  at::ScalarType dtype() const noexcept { return parts_.dtype; }
  uint64_t seed() const noexcept { return parts_.seed; }
  int64_t vocabulary_unit() const noexcept { return parts_.vocabulary_unit; }
  Site site(SiteOp op) const noexcept { return {parts_.layer, op}; }

 private:
  Parts parts_;
  std::shared_ptr<Communicator> self_;  // stands in for missing groups
};

}  // namespace strata
