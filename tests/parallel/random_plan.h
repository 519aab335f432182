#pragma once
// Random plans whose numbers fit together, for round trips.
#include <random>
#include <string>
#include <vector>

#include "parallel/plan/plan.h"

namespace strata::testing {

class RandomPlans {
 public:
  explicit RandomPlans(uint32_t seed) : generator_(seed) {}

  // Layer strategies are drawn from a few, so that runs of equal layers occur.
  Plan next() {
    Plan plan;
    const int layers = between(2, 20);
    plan.stages = between(1, std::min(6, layers));
    plan.chunks = plan.stages > 1 && chance(3) ? between(1, std::min(3, layers / plan.stages)) : 1;
    const int ranks = pick({1, 2, 4, 6, 8, 12, 64});
    plan.world_size = plan.stages * ranks;
    plan.microbatches = between(1, 9);
    plan.global_batch = plan.microbatches * ranks * between(1, 3);
    plan.schedule = plan.chunks > 1 ? "interleaved" : chance(2) ? "1f1b" : "gpipe";
    std::vector<LayerStrategy> few;
    for (int i = between(1, 3); i > 0; --i) few.push_back(strategy(ranks));
    for (int l = 0; l < layers; ++l)
      plan.layers.push_back(few[static_cast<size_t>(between(0, static_cast<int>(few.size()) - 1))]);
    const int parts = plan.stages * plan.chunks;
    if (chance(2)) {
      plan.virtual_stage = even_stages(layers, parts);
      return plan;
    }
    std::vector<int> size(static_cast<size_t>(parts), 1);
    for (int left = layers - parts; left > 0; --left)
      ++size[static_cast<size_t>(between(0, parts - 1))];
    for (int part = 0; part < parts; ++part)
      plan.virtual_stage.insert(plan.virtual_stage.end(),
                                static_cast<size_t>(size[static_cast<size_t>(part)]), part);
    return plan;
  }

  int between(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(generator_);
  }
  bool chance(int in) { return between(1, in) == 1; }

 private:
  int pick(const std::vector<int>& choices) {
    return choices[static_cast<size_t>(between(0, static_cast<int>(choices.size()) - 1))];
  }
  int divisor(int number) {
    std::vector<int> all;
    for (int d = 1; d <= number; ++d) {
      if (number % d == 0) all.push_back(d);
    }
    return pick(all);
  }
  LayerStrategy strategy(int ranks) {
    LayerStrategy s;
    s.tp = divisor(ranks);
    s.dp = ranks / s.tp;
    s.zero = between(0, 3);
    s.shards = chance(3) ? divisor(s.dp) : 0;
    s.sequence_parallel = s.tp > 1 && chance(2);
    s.recompute = static_cast<Recompute>(between(0, 2));
    return s;
  }

  std::mt19937 generator_;
};

}  // namespace strata::testing
