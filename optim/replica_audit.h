#pragma once
// Do ranks that must hold equal numbers hold equal numbers? Weights are copied over data-parallel
// replicas, over tp ranks where they are not cut, over tied layers of different stages, and below
// ZeRO 3 they are gathered after each update; masters and optimizer state are repeated wherever an
// update is. A bit that flips in one copy, or a rank that computes differently, changes nothing
// visible at once: the copies drift apart, and a checkpoint keeps whichever was at hand.
//
// What exists once cannot be audited: parts of weights and state that ZeRO leaves to one rank.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "optim/distributed_optimizer.h"
#include "parallel/engine/manager.h"

namespace strata {

// One rank's copy of a piece of a logical tensor.
struct ReplicaEntry {
  std::string piece;  // "model.norm.weight [0:64]", "m of model.norm.weight [0:64]"
  uint64_t hash = 0;  // of its elements
};

struct Drift {
  std::string piece;                    // the first that differs
  std::vector<std::vector<int>> ranks;  // holders, by equal copies; the largest group first
  int64_t pieces = 0;                   // how many differ
  std::string text() const;             // a sentence: who holds what, and who is likely wrong
};
// by_rank[r]: what rank r holds. Pieces of the same name are copies of each other.
std::optional<Drift> find_drift(const std::vector<std::vector<ReplicaEntry>>& by_rank);

// What this rank holds. Reads all its weights and state once.
std::vector<ReplicaEntry> replica_entries(ParallelManager& model,
                                          const DistributedOptimizer& optimizer);

// Collective over the job. Throws DesyncError, with the same text on every rank, when copies
// differ.
void check_replicas(ParallelManager& model, const DistributedOptimizer& optimizer);

}  // namespace strata
