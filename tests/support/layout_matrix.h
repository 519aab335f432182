#pragma once
// The layouts that the engine is compared in (parallel-runtime.md 15.3): factors and their values,
// what is possible together, and a small set of rows in which every possible pair of values of two
// factors occurs.
#include <array>
#include <string>
#include <vector>

#include "tests/support/run_model.h"

namespace strata::testing {

enum Factor {
  kModel,  // number in tiny_models()
  kDp,
  kTp,
  kStages,
  kSchedule,  // gpipe, 1f1b, interleaved with two chunks, zb-h1
  kZero,
  kShards,     // all of dp, half of it
  kTokens,     // whole, cut over tp between regions
  kRecompute,  // none, selective, full
  kMicrobatches,
  kLayers,     // all alike, or drawn at random for each
  kDocuments,  // one per row, or several
  kFactors
};

struct LayoutRow {
  std::array<int, kFactors> choice{};  // number of the value of each factor

  int world() const;
  std::string text() const;
  RunSetup setup() const;
  const TinyModel& model() const;
  bool operator==(const LayoutRow&) const = default;
};

int factor_values(Factor factor);  // how many
bool possible(const LayoutRow& row);
std::vector<LayoutRow> all_rows();       // every possible row
std::vector<LayoutRow> pairwise_rows();  // deterministic

// Strategies of the plan's layers drawn at random, stage borders too; world size, batch and
// schedule stay. What tied layers must agree on stays equal.
void mix_layers(Plan& plan, uint64_t seed);

}  // namespace strata::testing
