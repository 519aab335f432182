// Parameters that are not trained: no gradient, no state, no share in the norm, and the others
// train alike in every layout.
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <cmath>

#include "core/text.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace freeze_mpi_test {

const TinyModel& tiny(const std::string& name) {
  for (const TinyModel& model : tiny_models()) {
    if (model.name == name) return model;
  }
  throw std::runtime_error("no model " + name);
}

std::shared_ptr<const ModelSpec> frozen_model(const std::string& name,
                                              std::vector<std::string> globs) {
  const TinyModel& model = tiny(name);
  auto spec = make_model_from_json(model.config_json, model.name, model.options);
  spec->freeze(std::move(globs));
  return spec;
}

struct Case {
  std::string model;
  std::vector<std::string> globs;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      // As after compression: dense matrices, embedding and head stay.
      {"llama_lowrank", {"*.weight"}},
      {"llama_gqa_tied", {"model.embed_tokens.weight", "model.layers.0.*"}},
      {"gpt2_untied", {"*.attn.*", "lm_head.weight"}},
      {"llama_mhc_lite", {"*hc_attn*", "*q_proj*"}}};
  return all;
}

std::vector<RunSetup> layouts(int world) {
  std::vector<RunSetup> out;
  for (const int pp : {1, 2}) {
    for (const int tp : {1, 2}) {
      if (world % (pp * tp) != 0) continue;
      const int dp = world / (pp * tp);
      for (const int zero : {0, 1, 3}) {
        if (dp == 1 && zero > 0) continue;
        RunSetup setup;
        setup.pp = pp;
        setup.strategy.tp = tp;
        setup.strategy.zero = zero;
        setup.strategy.sequence_parallel = tp > 1 && zero != 1;
        setup.strategy.recompute = zero == 3 ? Recompute::Full : Recompute::None;
        setup.max_grad_norm = 0.1;
        setup.rule = "adamw";
        out.push_back(setup);
      }
    }
  }
  return out;
}

TEST(Freeze, TheRestTrainsAlikeInEveryLayout) {
  for (const Case& c : cases()) {
    for (const RunSetup& setup : layouts(test::world_size())) {
      if (c.model == "gpt2_untied" && setup.pp > 1) continue;  // one block
      SCOPED_TRACE(
          cat(c.model, " pp ", setup.pp, " tp ", setup.strategy.tp, " zero ", setup.strategy.zero));
      const auto spec = frozen_model(c.model, c.globs);
      ModelRun here(spec, setup, make_mpi_communicator());
      ModelRun alone(frozen_model(c.model, c.globs), setup.serial(), make_self_communicator());
      std::vector<Tensor> before;
      for (const OwnedSlice& slice : here.manager().frozen_slices())
        before.push_back(slice.value.detach().clone());
      for (int64_t step = 0; step < 3; ++step) {
        const StepReport a = here.step(step, 0.01), b = alone.step(step, 0.01);
        EXPECT_NEAR(a.loss, b.loss, 1e-10 * b.loss);
        EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-9 * b.grad_norm);
      }
      const auto frozen = here.manager().frozen_slices();
      ASSERT_EQ(frozen.size(), before.size());
      for (size_t i = 0; i < frozen.size(); ++i) {
        EXPECT_TRUE(at::equal(frozen[i].value, before[i])) << frozen[i].parameter->meta.name;
        EXPECT_FALSE(frozen[i].parameter->value.grad().defined());
        EXPECT_FALSE(frozen[i].grad.defined());
      }
      const auto mine = here.weights(), expected = alone.weights();
      if (!here.first()) continue;
      size_t trained = 0, named = 0;
      for (const ParamMeta& meta : parameter_metas(*spec)) {
        EXPECT_EQ(meta.trainable, !spec->frozen(meta.name)) << meta.name;
        trained += meta.trainable ? 1 : 0;
        named += mine.count(meta.name);
        EXPECT_EQ(mine.count(meta.name) > 0, meta.trainable) << meta.name;
      }
      EXPECT_GT(trained, 0U);
      EXPECT_LT(trained, parameter_metas(*spec).size());
      for (const auto& [name, value] : mine)
        EXPECT_LT(relative_error(value, expected.at(name), expected.at(name)), 1e-9) << name;
    }
  }
}

}  // namespace freeze_mpi_test
}  // namespace strata::testing
