// Tokens cut over tp between regions: layer by layer, for every model, each rank computes its
// tokens of the output and of the input's gradient, and all ranks together the gradients of the
// parameters, as one process does. fp64.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"
#include "tests/support/lone_layer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace sequence_parallel_detail {

constexpr int64_t kRows = 3, kLength = 20, kWidth = 32;

Batch training_rows(const ModelSpec& spec, bool packed) {
  Batch batch = tiny_rows(spec.vocabulary(), 4, 4 + kRows, kLength, /*step=*/2, packed);
  batch.training = true;
  return batch;
}

LoneLayer lone(const ModelSpec& spec, int layer, bool sequence_parallel, CommPool* pool) {
  const int tp = pool == nullptr ? 1 : pool->job().size();
  return LoneLayer([&](const ParallelLayout& layout) { return spec.make_layer(layer, layout); },
                   spec.parameter_prefix(layer), {.tp = tp, .sequence_parallel = sequence_parallel},
                   pool);
}

TEST(SequenceParallel, EveryLayerComputesItsTokensAsOneProcessDoes) {
  CommPool pool(make_mpi_communicator());
  for (const TinyModel& model : tiny_models()) {
    const auto spec = make_tiny(model);
    const int last = spec->layer_count() - 1;
    for (const bool packed : {false, true}) {
      const Batch batch = training_rows(*spec, packed);
      for (const int layer : {0, 1, last}) {
        LoneLayer serial = lone(*spec, layer, false, nullptr);
        LoneLayer parallel = lone(*spec, layer, true, &pool);
        const auto between = [&](int before, uint64_t seed) {
          return normal_values(spec->boundary(before, kRows, kLength), seed);
        };
        const Tensor x = layer == 0 ? Tensor() : between(layer - 1, 1);
        const Tensor dy = layer == last ? at::tensor({0.25, 0.0}, at::kDouble) : between(layer, 2);
        const auto own = [&](const Tensor& t) {
          return t.defined() && t.dim() == 3 ? parallel.own_tokens(t) : t;
        };
        const LoneResult whole = serial.run(x, batch, dy);
        const LoneResult here = parallel.run(own(x), batch, own(dy));
        const std::string what =
            cat(model.name, " ", spec->layer_name(layer), packed ? " packed" : "");
        expect_part_of(parallel, here, whole, 1e-12, what);
        // One term of each sum is not zero, and masks are functions of the token: nothing rounds.
        if (layer == 0) {
          EXPECT_TRUE(here.y.equal(own(whole.y))) << what;
        }
      }
    }
  }
}

TEST(SequenceParallel, LogitsAreThoseOfAllTokens) {
  CommPool pool(make_mpi_communicator());
  for (const TinyModel& model : tiny_models()) {
    const auto spec = make_tiny(model);
    const int last = spec->layer_count() - 1;
    LoneLayer serial = lone(*spec, last, false, nullptr);
    LoneLayer parallel = lone(*spec, last, true, &pool);
    const Tensor x = normal_values(spec->boundary(last - 1, kRows, kLength), 1);
    const Tensor whole = serial.layer().logits(x);
    const Tensor here = parallel.layer().logits(parallel.own_tokens(x));
    ASSERT_EQ(here.sizes(), whole.sizes()) << model.name;
    EXPECT_LE(relative_error(here, whole, whole), 1e-12) << model.name;
  }
}

TEST(SequenceParallel, EvaluationCountsCorrectPredictionsOnce) {
  const at::NoGradGuard no_grad;
  CommPool pool(make_mpi_communicator());
  const auto spec = make_tiny(tiny_models()[0]);
  const int last = spec->layer_count() - 1;
  LoneLayer serial = lone(*spec, last, false, nullptr);
  LoneLayer parallel = lone(*spec, last, true, &pool);
  const Tensor x = normal_values({kRows, kLength, kWidth}, 1);
  Batch batch = training_rows(*spec, false);
  batch.labels = serial.layer().logits(x).argmax(-1);
  batch.labels.select(1, 0).zero_();
  const Tensor whole = serial.forward(x, batch);
  const Tensor here = parallel.forward(parallel.own_tokens(x), batch);
  EXPECT_GE(whole[1].item<double>(), kRows * (kLength - 1));
  EXPECT_EQ(here[1].item<double>(), whole[1].item<double>());
  EXPECT_LE(relative_error(here, whole, whole), 1e-12);
}

TEST(SequenceParallel, TokensThatCannotBeCutAreAnError) {
  CommPool pool(make_mpi_communicator());
  if (pool.job().size() == 1) return;
  for (const TinyModel& model : tiny_models()) {
    const auto spec = make_tiny(model);
    LoneLayer parallel = lone(*spec, 0, true, &pool);
    const Batch batch = tiny_rows(spec->vocabulary(), 0, 2, 21, 0, false);
    EXPECT_THROW(parallel.forward({}, batch), InternalError) << model.name;
  }
}

}  // namespace sequence_parallel_detail

}  // namespace strata::testing
