// Masters of 16-bit weights hold the initial values before rounding: the first step starts from
// them. A step much smaller than the distance between neighbouring bf16 numbers moves exactly the
// weights that the fp32 values say; from rounded masters many of those would stay.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "tests/support/run_model.h"

namespace strata::testing {

namespace master_weights_detail {

// To the nearest bf16 number by way of fp32, as the optimizer computes.
Tensor rounded(const Tensor& x) { return x.to(at::kFloat).to(at::kBFloat16).to(at::kDouble); }

}  // namespace master_weights_detail

TEST(MasterWeights, StartFromTheUnroundedInitialValues) {
  using master_weights_detail::rounded;
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  RunSetup setup;
  setup.dtype = at::kFloat;
  const Tensor initial =
      ModelRun(tiny_models()[1], setup, make_self_communicator()).weights().at(name);
  setup.dtype = at::kBFloat16;
  ModelRun run(tiny_models()[1], setup, make_self_communicator());
  const Tensor before = run.weights().at(name);
  ASSERT_TRUE(before.equal(initial.to(at::kBFloat16).to(at::kDouble)));

  // The first step of momentum SGD is the gradient itself.
  const double lr = 1e-2;
  run.step(0, lr);
  const Tensor expected = rounded(initial - run.gradients().at(name) * lr);
  const Tensor after = run.weights().at(name);
  EXPECT_LE(after.ne(expected).sum().item<int64_t>(), after.numel() / 200)
      << "of " << after.numel();
  // What rounded masters would give differs in many places, so the comparison above tells them
  // apart.
  const Tensor from_rounded = rounded(before - run.gradients().at(name) * lr);
  EXPECT_GE(from_rounded.ne(expected).sum().item<int64_t>(), after.numel() / 20);
}

}  // namespace strata::testing
