#pragma once
// What plan files and plan strings say, before it is known to fit together: both parsers fill a
// draft, and one place finds what contradicts. Internal to parallel/plan.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/plan/plan.h"

namespace strata {

// How the source calls things, for messages; `prefix` is the file.
struct PlanWords {
  std::string prefix;
  std::string devices, stages, microbatches, batch, cuts, blocks, dp, tp;
};

struct PlanDraft {
  struct Item {
    std::string where;  // "layers[2]", "0-23"
    LayerStrategy strategy;
  };
  struct Run : Item {
    int64_t from = 0, to = 0;  // block numbers, inclusive
  };

  int64_t devices = 1, stages = 1, chunks = 1, microbatches = 1, batch = 1;
  std::string schedule = "1f1b";
  std::vector<Run> runs;            // in order, without gaps
  std::optional<Item> embed, head;  // default: as the first and the last block
  std::vector<int64_t> cuts;        // first layer of each later virtual stage
  bool has_cuts = false;            // false: even_stages()
};

// Largest numbers that plans hold; parsers refuse greater ones.
constexpr int64_t kMostRanks = 1 << 24;
constexpr int64_t kMostBlocks = 1 << 16;
constexpr int64_t kMostMicrobatches = 1 << 24;
constexpr int64_t kMostRows = int64_t{1} << 40;

// Adds what is wrong to `problems`; the result is only of use when nothing was.
Plan finish_plan(const PlanDraft& draft, const PlanWords& words,
                 std::vector<std::string>& problems);

}  // namespace strata
