// The MatMul-free family: published sizes, refusals, the coupling of all blocks by the bounds.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/generation_cache.h"
#include "core/text.h"
#include "models/register.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace matmul_free_detail {

std::unique_ptr<ModelSpec> model(const std::string& keys) {
  return make_model_from_json(
      cat(R"({"model_type": "hgrn_bit")", keys.empty() ? "" : ", ", keys, "}"), "config.json");
}
int64_t parameter_count(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParamMeta& meta : parameter_metas(spec)) total += meta.elements();
  return total;
}

TEST(MatmulFree, ParameterCountsArePublishedOnes) {
  const auto count = [](int64_t d, int64_t layers, int64_t vocabulary) {
    return parameter_count(*model(cat(R"("hidden_size": )", d, R"(, "num_hidden_layers": )", layers,
                                      R"(, "vocab_size": )", vocabulary)));
  };
  EXPECT_EQ(count(1024, 24, 32000), 374108160);
  EXPECT_EQ(count(2048, 24, 32000), 1364779008);
  EXPECT_EQ(count(2560, 32, 32000), 2702357504);
  EXPECT_EQ(count(384, 12, 32768), 46454016);
  EXPECT_EQ(count(512, 12, 32768), 74523648);
}

TEST(MatmulFree, WhatCannotRunIsRefused) {
  const auto expect_problem = [](const std::string& keys, const std::string& fragment) {
    try {
      model(keys);
      ADD_FAILURE() << keys;
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(fragment), std::string::npos) << e.what();
    }
  };
  expect_problem(R"("use_short_conv": true)", "use_short_conv");
  expect_problem(R"("tie_word_embeddings": true)", "tie_word_embeddings");
  expect_problem(R"("act_bits": 9)", "act_bits");
  expect_problem(R"("act_round": "up")", "act_round");
  expect_problem(R"("output_gate": "relesed")", "released");
  expect_problem(R"("num_heads": 3)", "num_heads");
  expect_problem(R"("attn_mode": "chunk")", "attn_mode");
}

// Text given token by token, each block going on from its state, has the logits of the whole text.
TEST(MatmulFree, StatesContinueATextExactly) {
  for (const TinyModel& tiny : tiny_models()) {
    if (tiny.name.rfind("matmul_free", 0) != 0) continue;
    ModelRun run(tiny, RunSetup{}, make_self_communicator());
    ASSERT_TRUE(run.manager().spec().generates_from_cache());
    const Batch whole = tiny_rows(run.manager().spec().vocabulary(), 0, 2, 12, 5, false);
    const Tensor expected = run.manager().logits(whole);
    GenerationCache cache;
    for (int64_t begin = 0; begin < 12;) {
      const int64_t count = begin == 0 ? 5 : 1;
      Batch part = whole;
      for (Tensor* t : {&part.tokens, &part.labels, &part.positions})
        *t = t->narrow(1, begin, count);
      part.cache = &cache;
      const Tensor logits = run.manager().logits(part);
      EXPECT_LE(relative_error(logits, expected.narrow(1, begin, count), expected), 1e-13)
          << tiny.name << " from " << begin;
      begin += count;
      cache.tokens += count;
    }
  }
}

// Without bounds there is no parameter that couples blocks; with them every block but the first
// contributes to its gradient.
TEST(MatmulFree, BoundsAreOneParameterOfAllBlocks) {
  const auto metas = parameter_metas(*model(R"("num_hidden_layers": 4, "hidden_size": 64)"));
  int found = 0;
  for (const ParamMeta& meta : metas) {
    if (meta.name != "model.lower_bounds") continue;
    ++found;
    EXPECT_EQ(meta.logical, (Shape{4, 64}));
    EXPECT_FALSE(meta.weight_decay);
    EXPECT_TRUE(meta.model_wide);
    EXPECT_EQ(meta.kind, ParamKind::Other);
  }
  EXPECT_EQ(found, 1);
  for (const ParamMeta& meta : parameter_metas(*model(R"("use_lower_bound": false)")))
    EXPECT_NE(meta.name, "model.lower_bounds");
}

}  // namespace matmul_free_detail
}  // namespace strata::testing
