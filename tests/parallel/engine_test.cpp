// One process: the engine against finite differences, micro-batching, recomputation, the gradient
// rule, refusals.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace {

// Gradients are those of the mean loss over counted labels: central differences along random
// directions.
TEST(Engine, GradientsEqualFiniteDifferences) {
  for (const TinyModel& model : tiny_models()) {
    if (!model.smooth) continue;
    RunSetup setup;
    ModelRun run(model, setup, make_self_communicator());
    auto mean_loss = [&] {
      const StepLoss loss = run.forward_backward(0);
      return loss.loss_sum / static_cast<double>(loss.counted);
    };
    run.step(0, 0.0);
    const auto gradients = run.gradients();
    double slope = 0;
    std::map<std::string, Tensor> directions;
    for (Parameter* p : run.manager().parameters()) {
      const Box whole{Shape(p->meta.logical.size(), 0), p->meta.logical};
      Tensor d = initial_values(p->meta, Init::normal(1), 123, whole, at::kDouble);
      directions[p->meta.name] = d;
      slope += (gradients.at(p->meta.name) * d).sum().item<double>();
    }
    const double h = 1e-6;
    auto move = [&](double by) {
      for (Parameter* p : run.manager().parameters())
        p->value.detach().add_(directions.at(p->meta.name), by);
    };
    move(h);
    const double up = mean_loss();
    move(-2 * h);
    const double down = mean_loss();
    EXPECT_NEAR((up - down) / (2 * h), slope, 1e-6 * std::max(1.0, std::abs(slope))) << model.name;
  }
}

TEST(Engine, MicroBatchesOnlyMoveTheWork) {
  for (const TinyModel& model : tiny_models()) {
    RunSetup one, four;
    one.microbatches = 1;
    four.microbatches = 4;
    ModelRun a(model, one, make_self_communicator()), b(model, four, make_self_communicator());
    const StepReport ra = a.step(0, 0.1), rb = b.step(0, 0.1);
    EXPECT_NEAR(ra.loss, rb.loss, 1e-12 * ra.loss);
    const auto ga = a.gradients(), gb = b.gradients();
    for (const auto& [name, g] : ga)
      EXPECT_LE(gradient_error(name, gb.at(name), g, ra.grad_norm), 1e-12)
          << model.name << " " << name;
  }
}

TEST(Engine, RecomputationIsBitIdentical) {
  for (const TinyModel& model : tiny_models()) {
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      RunSetup plain, again;
      plain.dtype = again.dtype = dtype;
      again.strategy.recompute = Recompute::Full;
      ModelRun a(model, plain, make_self_communicator()), b(model, again, make_self_communicator());
      a.step(0, 0.1);
      b.step(0, 0.1);
      const auto ga = a.gradients(), gb = b.gradients();
      for (const auto& [name, g] : ga)
        EXPECT_TRUE(g.equal(gb.at(name))) << model.name << " " << name;
    }
  }
}

TEST(Engine, SameSeedSameBits) {
  RunSetup setup;
  setup.dtype = at::kFloat;
  ModelRun a(tiny_models()[2], setup, make_self_communicator()),
      b(tiny_models()[2], setup, make_self_communicator());
  for (int64_t step = 0; step < 3; ++step) {
    EXPECT_EQ(a.step(step, 0.1).loss, b.step(step, 0.1).loss);
  }
  for (const auto& [name, w] : a.weights()) EXPECT_TRUE(w.equal(b.weights().at(name))) << name;
}

TEST(Engine, DropoutChangesWithTheStep) {
  RunSetup setup;
  ModelRun run(tiny_models()[2], setup, make_self_communicator());
  std::vector<Batch> batches{tiny_rows(61, 0, 4, 20, 0, false), tiny_rows(61, 4, 8, 20, 0, false)};
  const double first = run.manager().forward_backward(batches).loss_sum;
  EXPECT_EQ(first, run.manager().forward_backward(batches).loss_sum);
  for (Batch& b : batches) b.step = 1;
  EXPECT_NE(first, run.manager().forward_backward(batches).loss_sum);
  EXPECT_EQ(run.manager().forward_only(batches).loss_sum,
            run.manager().forward_only(batches).loss_sum);
}

TEST(Engine, StepWithoutLabelsTouchesNothing) {
  RunSetup setup;
  ModelRun run(tiny_models()[0], setup, make_self_communicator());
  const auto before = run.weights();
  std::vector<Batch> batches{tiny_rows(61, 0, 4, 20, 0, false), tiny_rows(61, 4, 8, 20, 0, false)};
  for (Batch& b : batches) b.labels.fill_(kIgnoreLabel);
  const StepReport report = run.optimizer().step({0, 0.1}, run.manager().forward_backward(batches));
  EXPECT_TRUE(report.skipped);
  for (const auto& [name, w] : run.weights()) EXPECT_TRUE(w.equal(before.at(name))) << name;
}

TEST(Engine, NonFiniteGradientTouchesNothing) {
  RunSetup setup;
  ModelRun run(tiny_models()[0], setup, make_self_communicator());
  run.step(0, 0.1);
  const auto before = run.weights();
  const StepLoss loss = run.forward_backward(1);
  run.manager().owned_slices()[0].grad[3] = std::nan("");
  const StepReport report = run.optimizer().step({1, 0.1}, loss);
  EXPECT_TRUE(report.skipped);
  EXPECT_TRUE(std::isnan(report.grad_norm));
  for (const auto& [name, w] : run.weights()) EXPECT_TRUE(w.equal(before.at(name))) << name;
}

// Masters start from the fp32 initial values, not from rounded ones: after a tiny step the rounded
// weights are unchanged, and many tiny steps add up.
TEST(Engine, MastersKeepWhatSixteenBitsLose) {
  RunSetup setup;
  setup.dtype = at::kBFloat16;
  ModelRun run(tiny_models()[1], setup, make_self_communicator());
  setup.dtype = at::kFloat;
  ModelRun wide(tiny_models()[1], setup, make_self_communicator());
  const auto wide_weights = wide.weights();
  for (const auto& [name, w] : run.weights()) {
    EXPECT_TRUE(w.equal(wide_weights.at(name).to(at::kBFloat16).to(at::kDouble)) ||
                w.equal(wide_weights.at(name)))
        << name;
  }
  Tensor before = run.weights().at("model.layers.0.mlp.up_proj.weight");
  for (int64_t step = 0; step < 40; ++step) run.step(step, 1e-5);
  EXPECT_GT(run.optimizer().state_bytes(), 0);
  // Compare with the fp32 run: the bf16 weights are its rounding to within a few units in the last
  // place.
  for (int64_t step = 0; step < 40; ++step) wide.step(step, 1e-5);
  const Tensor a = run.weights().at("model.layers.0.mlp.up_proj.weight").to(at::kDouble);
  const Tensor b = wide.weights().at("model.layers.0.mlp.up_proj.weight").to(at::kDouble);
  EXPECT_LE(relative_error(a, b, b), 4e-3);
}

// A linear cut both ways around a norm weight: the rule marks exactly the replicated weights inside
// a region.
TEST(GradientRule, IsDerivedFromTheModuleTree) {
  auto null2 = make_null_communicator(2);
  ParallelLayout::Parts parts;
  parts.strategy.tp = 2;
  parts.tp = null2.get();
  auto spec = make_tiny(tiny_models()[1]);
  auto block = spec->make_layer(1, ParallelLayout(parts));
  int summed = 0;
  for (const auto& owned : block->collect("b.")) {
    const ParamMeta& meta = owned.parameter->meta;
    summed += meta.sum_grad_over_tp;
    EXPECT_EQ(owned.after_exit,
              meta.name == "b.self_attn.o_proj.bias" || meta.name == "b.mlp.down_proj.bias")
        << meta.name;
  }
  EXPECT_EQ(summed, 0);  // Llama has no replicated weight inside a region
}

}  // namespace
}  // namespace strata::testing
