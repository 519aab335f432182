#pragma once
// How activations change owner between two layers that cut rows and tokens differently
// (parallel-runtime.md 9): every element is received exactly once, from a rank that holds it; a
// pure copy in both directions, no sum, no rounding. Pure; ranks are numbers within the stage.
#include <cstdint>
#include <vector>

#include "core/range.h"
#include "parallel/plan/plan.h"

namespace strata {

// The part of [rows, time] that a rank holds.
struct ActivationPart {
  Range rows, time;
  int64_t elements() const { return rows.size() * time.size(); }
  bool operator==(const ActivationPart&) const = default;
};

// Part of rank `rank` of a stage under a strategy: rows by dp, tokens by tp under sequence
// parallelism. whole_rows: every rank holds all rows (generation).
ActivationPart activation_part(const LayerStrategy& strategy, int rank, int64_t rows, int64_t time,
                               bool whole_rows = false);

// A piece that moves between this rank and `peer` (itself: a local copy).
struct RelayoutPiece {
  int peer = 0;
  ActivationPart part;  // in numbers of the whole micro-batch
};
struct RelayoutPlan {
  int rank = 0;                                // of this process in its stage
  ActivationPart from, to;                     // of this rank
  std::vector<RelayoutPiece> sends, receives;  // by peer; copies to itself are in both
  bool nothing() const;                        // this rank keeps what it has and serves nobody
  int64_t received_elements() const;           // from others
};
// parts_from, parts_to: one per rank of the stage.
RelayoutPlan relayout_plan(const std::vector<ActivationPart>& parts_from,
                           const std::vector<ActivationPart>& parts_to, int rank);

}  // namespace strata
