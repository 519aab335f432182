// Makes a model from a config.json text, counts its parameters and runs it once, all in this
// process.
#include <ATen/ops/arange.h>

#include <cmath>
#include <cstdio>
#include <memory>

#include "core/batch.h"
#include "models/register.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/pool.h"
#include "parallel/engine/manager.h"
#include "parallel/engine/weight_source.h"
#include "parallel/plan/plan.h"

int main() {
  const char* config =
      R"({"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
                           "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2})";
  std::shared_ptr<const strata::ModelSpec> spec =
      strata::make_model_from_json(config, "config.json");
  int64_t parameters = 0;
  for (const strata::ParamMeta& meta : strata::parameter_metas(*spec)) {
    parameters += meta.elements();
  }
  // Embedding and head 64 x 32; per block q, o 32 x 32, k, v 16 x 32, mlp 3 x 48 x 32, norms 2 x
  // 32; last norm 32.
  const int64_t expected = 2 * 64 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 64) + 32;

  strata::CommPool pool(strata::make_self_communicator());
  const strata::Plan plan = strata::make_uniform_plan({.global_batch = 2}, spec->layer_count());
  auto manager = strata::ParallelManager::build(spec, plan, pool, {.vocabulary_unit = 8});
  manager->load_weights(*strata::make_initial_weights(1));

  strata::Batch batch;
  batch.tokens = at::arange(32, at::kLong).reshape({2, 16});
  batch.labels = batch.tokens.add(1);
  batch.positions = strata::default_positions(2, 16);
  const strata::StepLoss loss = manager->forward_only({&batch, 1});
  const double mean = loss.loss_sum / static_cast<double>(loss.counted);
  std::printf("%lld parameters, %lld labels, loss %.4f (uniform guessing: %.4f)\n",
              static_cast<long long>(parameters), static_cast<long long>(loss.counted), mean,
              std::log(64.0));
  return parameters == expected && loss.counted == 32 && std::abs(mean - std::log(64.0)) < 0.2 ? 0
                                                                                               : 1;
}
