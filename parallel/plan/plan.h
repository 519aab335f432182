#pragma once
// A plan says how every layer of a model runs: its data and tensor degrees, ZeRO level, sequence
// parallelism, recomputation, and its place in the pipeline. Plain data; all functions are pure.
//
// Layer numbers: 0 the embedding, 1..L the blocks, L+1 the head with the loss.
// World rank = stage * S + dp_index * tp + tp_index with S = world_size / stages ranks per stage.
//
// Pipeline: the layers are cut into stages * chunks consecutive parts, the virtual stages. Part k
// is chunk k / stages of stage k % stages; with chunks = 1 virtual stages and stages are the same.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

class ModelSpec;

// None keeps all activations; Selective recomputes the regions that a layer offers for it (cheap to
// compute, large to keep); Full keeps the layer's input only.
enum class Recompute { None, Selective, Full };
std::string_view recompute_name(Recompute r);  // "none", "selective", "full"
std::optional<Recompute> parse_recompute(std::string_view name);

struct LayerStrategy {
  int dp = 1;      // ranks that hold different rows of the batch
  int tp = 1;      // ranks that hold different parts of each cut weight
  int zero = 0;    // what is cut over dp: 1 optimizer state, 2 and gradients, 3 and parameters
  int shards = 0;  // into how many parts, a divisor of dp; the other dp / shards copies replicate
                   // them (hybrid sharding). 0: dp
  bool sequence_parallel = false;  // between regions, tokens are cut over tp
  Recompute recompute = Recompute::None;

  int shard_count() const { return zero == 0 ? 1 : shards == 0 ? dp : shards; }
  bool operator==(const LayerStrategy&) const = default;
};

struct Plan {
  int world_size = 1;
  int stages = 1;
  int chunks = 1;                     // model chunks per stage; more than one: interleaved
  std::vector<int> virtual_stage;     // one per layer, non-decreasing, 0 .. stages * chunks - 1
  std::vector<LayerStrategy> layers;  // dp * tp == world_size / stages for each
  int64_t global_batch = 1;           // rows per optimizer step
  int64_t microbatches = 1;
  std::string schedule = "1f1b";  // parallel/plan/schedule.h

  int ranks_per_stage() const { return world_size / stages; }
  int stage_of(int layer) const { return virtual_stage[static_cast<size_t>(layer)] % stages; }
  int chunk_of(int layer) const { return virtual_stage[static_cast<size_t>(layer)] / stages; }
  int64_t rows_per_microbatch() const { return global_batch / microbatches; }
  bool operator==(const Plan&) const = default;
};

// What plan.{tp,pp,zero,...} of a run file say; dp = world / (pp * tp).
struct UniformPlan {
  int world_size = 1, pp = 1, chunks = 1;
  LayerStrategy strategy;  // dp is filled in
  int64_t global_batch = 1, microbatches = 1;
  std::string schedule = "1f1b";
};
// The same strategy in every layer, cut as even_stages() says. Impossible degrees are left for
// check_plan to explain; only a world size that pp * tp does not divide throws here: ConfigError
// with the nearest sizes.
Plan make_uniform_plan(const UniformPlan& request, int layer_count);

// The virtual stage of each layer when nobody says where to cut: blocks as even as possible, longer
// parts first, the embedding in the first and the head in the last part. With fewer blocks than
// parts embedding and head count as blocks.
std::vector<int> even_stages(int layer_count, int parts);

// Everything that is wrong with a plan for this model, one sentence each ("plan.layers[3].tp: got
// 8, allowed: 1, 2, 4 (q_proj of model.layers.3 has 4 units of 128)"); empty when it can be run by
// this version. time: tokens per row, 0 when not known (then nothing is said about cutting tokens).
std::vector<std::string> check_plan(const Plan& plan, const ModelSpec& model, int64_t time = 0);

}  // namespace strata
