// Every model under every dp x tp of the job computes what one process computes: initial weights
// bit for bit, loss, norm and each gradient tensor of step 1 to 1e-12, weights after 20 steps of
// momentum SGD to 1e-11 (fp64). The one-process run is done by the first rank beside the parallel
// one, in the same binary.
#include <gtest/gtest.h>

#include <cmath>

#include "core/text.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace {

void expect_equal_runs(const TinyModel& model, const RunSetup& setup, const std::string& what) {
  ModelRun parallel(model, setup, make_mpi_communicator());
  const bool first = parallel.first();
  std::unique_ptr<ModelRun> serial;
  if (first) serial = std::make_unique<ModelRun>(model, setup.serial(), make_self_communicator());

  const auto start = parallel.weights();
  if (first) {
    const auto expected = serial->weights();
    EXPECT_EQ(start.size(), expected.size()) << what;
    for (const auto& [name, w] : expected)
      EXPECT_TRUE(w.equal(start.at(name))) << what << " initial " << name;
  }
  const double lr = 0.02;
  const StepReport b = parallel.step(0, lr);
  const auto gradients = parallel.gradients();
  if (first) {
    const StepReport a = serial->step(0, lr);
    EXPECT_EQ(a.counted, b.counted) << what;
    EXPECT_GT(a.counted, 0);
    EXPECT_LE(std::abs(a.loss - b.loss), 1e-12 * std::abs(a.loss)) << what << " loss";
    EXPECT_LE(std::abs(a.grad_norm - b.grad_norm), 1e-12 * a.grad_norm) << what << " norm";
    for (const auto& [name, whole] : serial->gradients()) {
      EXPECT_LE(gradient_error(name, gradients.at(name), whole, a.grad_norm), 1e-12)
          << what << " gradient of " << name;
      if (!zero_but_for_rounding(name)) {
        EXPECT_GT(whole.norm().item<double>(), 0) << what << " gradient of " << name;
      }
    }
  }
  for (int64_t step = 1; step < 20; ++step) {
    if (first) serial->step(step, lr);
    parallel.step(step, lr);
  }
  const auto end = parallel.weights();
  if (first) {
    for (const auto& [name, whole] : serial->weights())
      EXPECT_LE(relative_error(end.at(name), whole, whole), 1e-11) << what << " weights " << name;
  }
}

TEST(LayoutEquivalence, EveryModelAtEveryDegree) {
  const int world = make_mpi_communicator()->size();
  for (const TinyModel& model : tiny_models()) {
    for (int tp = 1; tp <= world; tp *= 2) {
      if (world % tp != 0) continue;
      RunSetup setup;
      setup.strategy.tp = tp;
      setup.max_grad_norm = tp % 2 == 0 ? 0.5 : 0;  // clipping once on, once off
      expect_equal_runs(model, setup, cat(model.name, " dp", world / tp, " tp", tp));
    }
  }
}

TEST(LayoutEquivalence, PackedDocumentsRecomputeAndWideVocabularyUnits) {
  const int world = make_mpi_communicator()->size();
  for (const TinyModel& model : tiny_models()) {
    RunSetup setup;
    setup.strategy.tp = world;  // with units of 128 the later ranks hold no vocabulary rows at all
    setup.vocabulary_unit = 128;
    setup.packed = true;
    setup.strategy.recompute = Recompute::Full;
    expect_equal_runs(model, setup, cat(model.name, " packed recompute tp", world));
  }
}

TEST(LayoutEquivalence, LogitsAreThoseOfOneProcess) {
  const int world = make_mpi_communicator()->size();
  for (const TinyModel& model : tiny_models()) {
    RunSetup setup;
    ModelRun serial(model, setup, make_self_communicator());
    setup.strategy.tp = world;
    setup.vocabulary_unit = 16;
    ModelRun parallel(model, setup, make_mpi_communicator());
    const Batch rows = tiny_rows(serial.manager().spec().vocabulary(), 0, 3, 11, 5, false);
    const Tensor a = serial.manager().logits(rows), b = parallel.manager().logits(rows);
    EXPECT_EQ(a.sizes(), b.sizes());
    EXPECT_LE(relative_error(b, a, a), 1e-12) << model.name;
  }
}

// The accuracy count of evaluation, with the vocabulary cut.
TEST(LayoutEquivalence, EvaluationCountsTheSame) {
  const int world = make_mpi_communicator()->size();
  const TinyModel& model = tiny_models()[0];
  auto evaluate = [&](ModelRun& run) {
    std::vector<Batch> batches;
    for (int64_t m = 0; m < 2; ++m) {
      const Range rows = run.manager().rows_needed(m);
      batches.push_back(tiny_rows(61, rows.begin, rows.end, 20, 3, false));
      batches.back().labels = batches.back().tokens;  // the tied head often predicts its own input
    }
    return run.manager().forward_only(batches);
  };
  RunSetup setup;
  ModelRun serial(model, setup, make_self_communicator());
  setup.strategy.tp = world;
  ModelRun parallel(model, setup, make_mpi_communicator());
  const StepLoss a = evaluate(serial);
  const StepLoss share = evaluate(parallel);
  EXPECT_GT(a.correct, 0);
  if (parallel.manager().pool().job().rank() == 0) {
    EXPECT_EQ(a.correct, share.correct);
    EXPECT_EQ(a.counted, share.counted);
    EXPECT_NEAR(a.loss_sum, share.loss_sum, 1e-9 * a.loss_sum);
  } else {
    EXPECT_EQ(share.counted, 0);
  }
}

// Sanity bounds only: rounding differs between layouts, logic errors are found in fp64.
TEST(LayoutEquivalence, Bf16StaysClose) {
  const int world = make_mpi_communicator()->size();
  RunSetup setup;
  setup.dtype = at::kBFloat16;
  setup.rule = "adamw";
  ModelRun serial(tiny_models()[0], setup, make_self_communicator());
  setup.strategy.tp = world;
  ModelRun parallel(tiny_models()[0], setup, make_mpi_communicator());
  for (int64_t step = 0; step < 5; ++step) {
    const StepReport a = serial.step(step, 1e-3), b = parallel.step(step, 1e-3);
    EXPECT_LE(std::abs(a.loss - b.loss), 2e-2 * a.loss);
    EXPECT_LE(std::abs(a.grad_norm - b.grad_norm), 1e-1 * a.grad_norm);
  }
}

}  // namespace
}  // namespace strata::testing
