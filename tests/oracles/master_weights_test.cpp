// Masters of 16-bit weights hold the initial values before rounding. From rounded masters a step
// far below the rounding distance changes no 16-bit weight at all; from the true ones it moves
// those that lie near a border.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "tests/support/run_model.h"

namespace strata::testing {

TEST(MasterWeights, StartFromTheUnroundedInitialValues) {
  RunSetup setup;
  setup.dtype = at::kBFloat16;
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  ModelRun run(tiny_models()[1], setup, make_self_communicator());
  const Tensor before = run.weights().at(name);
  run.step(0, 0.0);
  EXPECT_TRUE(run.weights().at(name).equal(before)) << "a learning rate of 0 changes nothing";

  // One bf16 ulp of a weight w is at least |w| / 256; this learning rate makes steps of about a
  // thousandth of |w|.
  const Tensor gradient = run.gradients().at(name);
  const double lr =
      1e-3 * before.to(at::kFloat).norm().item<double>() / gradient.norm().item<double>();
  run.step(1, lr);
  const Tensor after = run.weights().at(name);
  const int64_t moved = after.ne(before).sum().item<int64_t>();
  EXPECT_GT(moved, before.numel() / 20);
  EXPECT_LT(moved, before.numel() / 2);
}

}  // namespace strata::testing
