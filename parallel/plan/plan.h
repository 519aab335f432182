#pragma once
// A plan says how every layer of a model runs: its data and tensor degrees, ZeRO level, sequence
// parallelism, recomputation, and its pipeline stage. Plain data; all functions are pure.
//
// Layer numbers: 0 the embedding, 1..L the blocks, L+1 the head with the loss.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

class ModelSpec;

enum class Recompute { None, Full };
std::string_view recompute_name(Recompute r);

struct LayerStrategy {
  int dp = 1;    // ranks that hold different rows of the batch
  int tp = 1;    // ranks that hold different parts of each cut weight
  int zero = 0;  // 0..3: what is cut over dp (optimizer state, gradients, parameters)
  bool sequence_parallel = false;  // between regions, tokens are cut over tp
  Recompute recompute = Recompute::None;
  bool operator==(const LayerStrategy&) const = default;
};

struct Plan {
  int world_size = 1;
  int stages = 1;
  std::vector<int> stage_of_layer;    // one per layer, non-decreasing
  std::vector<LayerStrategy> layers;  // dp * tp == world_size / stages for each
  int64_t global_batch = 1;           // rows per optimizer step
  int64_t microbatches = 1;
  std::string schedule = "1f1b";

  int ranks_per_stage() const { return world_size / stages; }
  int64_t rows_per_microbatch() const { return global_batch / microbatches; }
  bool operator==(const Plan&) const = default;
};

// What plan.{tp,pp,zero,...} of a run file say; dp = world / (pp * tp).
struct UniformPlan {
  int world_size = 1, pp = 1;
  LayerStrategy strategy;  // dp is filled in
  int64_t global_batch = 1, microbatches = 1;
  std::string schedule = "1f1b";
};
// The same strategy in every layer, stages as even as possible (longer ones first). Impossible
// degrees are left for check_plan to explain; only a world size that pp * tp does not divide throws
// here: ConfigError with the nearest sizes.
Plan make_uniform_plan(const UniformPlan& request, int layer_count);

// Everything that is wrong with a plan for this model, one sentence each ("plan.layers[3].tp: got
// 8, allowed: 1, 2, 4 (q_proj of model.layers.3 has 4 units of 128)"); empty when it can be run by
// this version.
std::vector<std::string> check_plan(const Plan& plan, const ModelSpec& model);

}  // namespace strata
