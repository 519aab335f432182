// A number that is not finite on one rank: every rank skips the step, says the same about it, and
// nothing of weights and state is touched.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/text.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace nonfinite_detail {

// Layouts in which a gradient lives on some ranks only.
std::vector<RunSetup> layouts(int world) {
  std::vector<RunSetup> out;
  const auto add = [&](int pp, int tp, int zero) {
    RunSetup s;
    s.pp = pp;
    s.strategy.tp = tp;
    s.strategy.zero = zero;
    s.rule = "adamw";
    s.dtype = at::kBFloat16;
    out.push_back(s);
  };
  if (world > 4) return out;
  add(1, 1, world > 1 ? 3 : 0);
  if (world > 1) add(1, 2, 0), add(2, 1, world > 2 ? 1 : 0);
  if (world > 2) add(2, 1, 3), add(2, 2, 0);
  return out;
}

// Everything an update writes.
std::vector<Tensor> state_of(ModelRun& run) {
  std::vector<Tensor> out;
  run.optimizer().for_tensors([&](const OptimizerTensor& t) { out.push_back(t.values.clone()); });
  for (const OwnedSlice& slice : run.manager().owned_slices()) out.push_back(slice.value.clone());
  return out;
}

void expect_untouched(ModelRun& run, const std::vector<Tensor>& before) {
  const std::vector<Tensor> after = state_of(run);
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(after[i].equal(before[i]));
}

// The same text on every rank.
std::string agreed(ModelRun& run, const std::string& text) {
  for (const std::string& other : run.manager().pool().job().all_gather_bytes(text))
    EXPECT_EQ(other, text);
  return text;
}

}  // namespace nonfinite_detail

using namespace nonfinite_detail;

TEST(NonFinite, OneElementOnOneRankIsNamedEverywhere) {
  const int world = test::world_size();
  for (const RunSetup& setup : layouts(world)) {
    for (const float bad : {std::nanf(""), INFINITY}) {
      SCOPED_TRACE(cat("pp ", setup.pp, " tp ", setup.strategy.tp, " zero ", setup.strategy.zero));
      ModelRun run(tiny_models()[0], setup, make_mpi_communicator());
      run.step(0, 0.02);
      const std::vector<Tensor> before = state_of(run);
      const StepLoss loss = run.forward_backward(1);
      // The last gradient that the last rank counts.
      std::string name;
      if (test::world_rank() == world - 1) {
        for (const OwnedSlice& slice : run.manager().owned_slices()) {
          if (slice.norm.size() > 0) name = slice.parameter->meta.name;
        }
        for (const OwnedSlice& slice : run.manager().owned_slices()) {
          if (slice.parameter->meta.name == name)
            slice.counted(slice.grad)[slice.norm.size() - 1] = bad;
        }
      }
      run.manager().pool().job().broadcast_bytes(name, world - 1);
      const StepReport report = run.optimizer().step({1, 0.02}, loss);
      EXPECT_TRUE(report.skipped);
      ASSERT_TRUE(report.non_finite);
      EXPECT_EQ(agreed(run, report.non_finite->text()),
                cat("the gradient of ", name, " is not finite"));
      expect_untouched(run, before);
      // The next step is as if nothing had been.
      const StepReport next = run.step(2, 0.02);
      EXPECT_FALSE(next.skipped);
      EXPECT_FALSE(next.non_finite);
    }
  }
}

TEST(NonFinite, ALossOnOneRankIsNamedEverywhere) {
  for (const RunSetup& setup : layouts(test::world_size())) {
    ModelRun run(tiny_models()[0], setup, make_mpi_communicator());
    const std::vector<Tensor> before = state_of(run);
    StepLoss loss = run.forward_backward(0);
    if (test::world_rank() == test::world_size() - 1) loss.loss_sum = std::nan("");
    const StepReport report = run.optimizer().step({0, 0.02}, loss);
    EXPECT_TRUE(report.skipped);
    ASSERT_TRUE(report.non_finite);
    EXPECT_EQ(agreed(run, report.non_finite->text()), "the loss is not finite");
    expect_untouched(run, before);
  }
}

// A weight that is not finite spoils the loss and every gradient before it.
TEST(NonFinite, ASpoiltWeightIsSeenInLossAndGradients) {
  for (const RunSetup& setup : layouts(test::world_size())) {
    ModelRun run(tiny_models()[0], setup, make_mpi_communicator());
    for (const OwnedSlice& slice : run.manager().owned_slices()) {
      if (slice.parameter->meta.name.find("layers.0") != std::string::npos)
        slice.value.fill_(std::nanf(""));
    }
    run.manager().weights_changed();
    const StepReport report = run.step(0, 0.02);
    EXPECT_TRUE(report.skipped);
    ASSERT_TRUE(report.non_finite);
    const std::string text = agreed(run, report.non_finite->text());
    EXPECT_EQ(text.find("the loss and the gradients of "), 0u) << text;
    EXPECT_NE(text.find("(first model.embed_tokens.weight, last "), std::string::npos) << text;
  }
}

}  // namespace strata::testing
