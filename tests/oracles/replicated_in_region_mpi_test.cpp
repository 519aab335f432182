// A weight that is whole on every rank but used inside a region (a norm over each head) sees only
// the rank's own heads: its gradient must be summed over tp, which the library derives from the
// module tree. No family of this version has one, so a small model made for the purpose is compared
// with its one-process run, every gradient in fp64.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "core/ops/linear.h"
#include "core/text.h"
#include "parallel/nn/module.h"
#include "tests/support/custom_spec.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace replicated_detail {

constexpr int64_t kWidth = 32, kHeads = 4, kHeadWidth = 6;

// B batch, T time, D width, H heads here, K head width
class HeadNormMixer final : public Region {
 public:
  explicit HeadNormMixer(const ParallelLayout& layout) : Region(layout) {
    up_ = linear("up", kWidth, kHeads * kHeadWidth, split_out(kHeadWidth), {.init_std = 0.2});
    norm_ = rms_norm("head_norm", kHeadWidth, 1e-5);
    down_ = linear("down", kHeads * kHeadWidth, kWidth, split_in(kHeadWidth),
                   {.bias = true, .init_std = 0.2});
  }
  Tensor forward(const Tensor& x_BTD, const Batch&) override {
    const Tensor h_BTHK = norm_(ops::split_heads(up_(x_BTD), kHeadWidth));
    return down_(ops::merge_heads(h_BTHK));
  }

 private:
  Linear up_, down_;
  RmsNorm norm_;
};

class HeadNormBlock final : public Layer {
 public:
  explicit HeadNormBlock(const ParallelLayout& layout) : Layer(layout) {
    norm_ = rms_norm("norm", kWidth, 1e-5);
    mixer_ = add<HeadNormMixer>("mixer", layout);
  }
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override {
    return x_BTD + (*mixer_)(norm_(x_BTD), batch);
  }

 private:
  RmsNorm norm_;
  std::shared_ptr<HeadNormMixer> mixer_;
};

std::shared_ptr<const ModelSpec> spec() {
  return std::make_shared<CustomSpec>(
      [](const ParallelLayout& layout) { return std::make_shared<HeadNormBlock>(layout); });
}

}  // namespace replicated_detail

TEST(ReplicatedInRegion, GradientsEqualThoseOfOneProcess) {
  for (int tp = 1; tp <= test::world_size(); tp *= 2) {
    RunSetup setup;
    setup.length = 10;
    setup.strategy.tp = tp;
    ModelRun parallel(replicated_detail::spec(), setup, make_mpi_communicator());
    parallel.step(0, 0.1);
    const auto gradients = parallel.gradients();
    int summed = 0;
    for (Parameter* p : parallel.manager().parameters()) summed += p->meta.sum_grad_over_tp;
    EXPECT_EQ(summed, tp == 1 ? 0 : 2) << "the norm of each of the two mixers";
    if (!parallel.first()) continue;
    ModelRun serial(replicated_detail::spec(), setup.serial(), make_self_communicator());
    serial.step(0, 0.1);
    for (const auto& [name, whole] : serial.gradients()) {
      EXPECT_LE(relative_error(gradients.at(name), whole, whole), 1e-12) << name << " at tp " << tp;
      EXPECT_GT(whole.norm().item<double>(), 0) << name;
    }
  }
}

}  // namespace strata::testing
