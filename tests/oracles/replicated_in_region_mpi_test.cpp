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

struct Gradients {
  std::unique_ptr<CommPool> pool;
  std::unique_ptr<ParallelManager> manager;

  Gradients(std::unique_ptr<Communicator> job, int tp) {
    auto spec = std::make_shared<CustomSpec>(
        [](const ParallelLayout& layout) { return std::make_shared<HeadNormBlock>(layout); });
    UniformPlan request;
    request.world_size = job->size();
    request.strategy.tp = tp;
    request.global_batch = 4;
    const Plan plan = make_uniform_plan(request, spec->layer_count());
    EXPECT_EQ(join(check_plan(plan, *spec)), "");
    pool = std::make_unique<CommPool>(std::move(job));
    manager = ParallelManager::build(spec, plan, *pool,
                                     {.dtype = at::kDouble, .seed = 3, .vocabulary_unit = 1});
    manager->load_weights(*make_initial_weights(3));
    const Range rows = manager->rows_needed(0);
    const Batch batch = tiny_rows(spec->vocabulary(), rows.begin, rows.end, 10, 0, false);
    manager->forward_backward({&batch, 1});
  }
};

}  // namespace replicated_detail

TEST(ReplicatedInRegion, GradientsEqualThoseOfOneProcess) {
  using replicated_detail::Gradients;
  Gradients serial(make_self_communicator(), 1);
  for (int tp = 1; tp <= test::world_size(); tp *= 2) {
    Gradients parallel(make_mpi_communicator(), tp);
    int summed = 0;
    for (Parameter* p : parallel.manager->parameters()) {
      summed += p->meta.sum_grad_over_tp;
      Tensor whole;
      for (Parameter* q : serial.manager->parameters()) {
        if (q->meta.name == p->meta.name) whole = q->grad;
      }
      ASSERT_TRUE(whole.defined()) << p->meta.name;
      const Tensor part = take_part(whole, p->meta.shard, p->tp_index, p->tp_size);
      EXPECT_LE(relative_error(p->grad, part, whole), 1e-12) << p->meta.name << " at tp " << tp;
      EXPECT_GT(whole.norm().item<double>(), 0) << p->meta.name;
    }
    EXPECT_EQ(summed, tp == 1 ? 0 : 2) << "the norm of each of the two mixers";
  }
}

}  // namespace strata::testing
