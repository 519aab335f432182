// What check_plan accepts, and every refusal once.
#include <gtest/gtest.h>

#include <functional>

#include "core/text.h"
#include "parallel/plan/plan.h"
#include "parallel/plan/plan_string.h"
#include "tests/support/tiny_models.h"

namespace strata {
namespace check_plan_test {

using testing::make_tiny;
using testing::tiny_models;

// Llama with tied embeddings, two blocks, 8 heads, 2 key/value heads.
std::shared_ptr<const ModelSpec> tied() { return make_tiny(tiny_models()[0]); }
// Llama without, two blocks, 4 heads.
std::shared_ptr<const ModelSpec> untied() { return make_tiny(tiny_models()[1]); }

std::vector<std::string> problems_of(const ModelSpec& model, const std::string& plan,
                                     int64_t time = 0) {
  return check_plan(parse_plan_string(plan), model, time);
}

TEST(CheckPlan, AcceptsWhatRuns) {
  const char* plans[] = {
      "N1 p1 m1 1f1b gbs1 | 0-1: t1 d1 z0",
      "N4 p1 m2 1f1b gbs8 | 0-1: t2 d2 z3 rs",
      "N4 p4 m1 1f1b gbs1 | 0-1: t1 d1 z0",
      "N4 p2 m3 zb-h1 gbs6 | 0-1: t1 d2 z1",
      "N4 p4 m3 gpipe gbs3 | 0-1: t1 d1 z2 rf",
      "N2 p2v2 m2 interleaved gbs4 | 0-1: t1 d1 z0",
      "N4 p2 m4 1f1b gbs16 cut0 | 0-1: t1 d2 z1",
      "N4 p1 m1 1f1b gbs8 | 0: t2 d2 z3/1 | 1: t4 q0 d1 z0 rf | emb: t1 d4 z2 | head: t2 q0 d2 z1",
      "N3 p1 m1 1f1b gbs3 | 0-1: t1 d3 z3/3",
  };
  for (const char* plan : plans)
    EXPECT_EQ(join(problems_of(*untied(), plan, 16), "\n"), "") << plan;
  EXPECT_EQ(join(problems_of(*tied(),
                             "N4 p2 m1 1f1b gbs2 | 0-1: t1 d2 z3 | emb: t2 d1 z1 | "
                             "head: t2 d1 z1 rf"),
                 "\n"),
            "")
      << "only layers that share a parameter are alike";
  Plan plan = parse_plan_string("N2 p1 m1 1f1b gbs2 | 0-1: t1 d2 z0");
  for (LayerStrategy& s : plan.layers) s.sequence_parallel = true;
  EXPECT_TRUE(check_plan(plan, *untied(), 7).empty()) << "without effect where tp is 1";
  for (const auto& model : tiny_models()) {
    const auto spec = make_tiny(model);
    const std::string blocks = cat("0-", spec->layer_count() - 3);
    for (const char* strategy : {"t1 d4", "t2 d2", "t4 d1"}) {
      const std::string text = cat("N4 p1 m1 1f1b gbs4 | ", blocks, ": ", strategy);
      EXPECT_EQ(join(problems_of(*spec, text), "\n"), "") << model.name;
    }
  }
}

struct Refusal {
  const char* plan;
  const char* text;
};

TEST(CheckPlan, SaysWhatIsWrong) {
  const Refusal refusals[] = {
      {"N1 p1 m1 1f1b gbs1 | 0: t1 d1",
       "plan.layers: got 3 layers, allowed: 4 (embedding, 2 blocks, head of this model)"},
      {"N2 p2v2 m2 1f1b gbs2 | 0-1: t1 d1",
       "plan.schedule: got 1f1b, allowed: interleaved (1f1b has one chunk per stage (plan.chunks = "
       "1))"},
      {"N2 p2 m2 interleaved gbs2 | 0-1: t1 d1",
       "plan.schedule: got interleaved, allowed: gpipe, 1f1b, zb-h1 (interleaved needs plan.chunks "
       ">= 2)"},
      {"N2 p2v2 m1 interleaved gbs2 | 0-1: t1 d1",
       "plan.schedule: got interleaved, allowed: none with these numbers (interleaved needs at "
       "least as many micro-batches as stages: 2)"},
      {"N4 p1 m2 1f1b gbs6 | 0-1: t1 d4",
       "plan.layers[0].dp: got 4, allowed: divisors of the 3 rows of a micro-batch: 1, 3 "
       "(train.batch / plan.microbatches must be a multiple of dp); in model.embed_tokens and 3 "
       "others"},
      {"N4 p1 m1 1f1b gbs4 | 0: t1 d4 z1 | 1: t1 d4 z3/3",
       "plan.layers[2].shards: got 3, allowed: 0 (= dp) or divisors of dp = 4: 1, 2, 4; in "
       "model.layers.1 and 1 other"},
      {"N8 p1 m1 1f1b gbs4 | 0-1: t8 q0 d1 | emb: t2 q0 d4 | head: t2 q0 d4",
       "plan.layers[1].tp: got 8, allowed: 1, 2, 4 (self_attn.q_proj.weight of model.layers.0 has "
       "4 "
       "units of 8); in model.layers.0 and 1 other"},
  };
  for (const Refusal& refusal : refusals) {
    const auto problems = problems_of(*untied(), refusal.plan, 16);
    ASSERT_EQ(problems.size(), 1u) << refusal.plan << '\n' << join(problems, "\n");
    EXPECT_EQ(problems[0], refusal.text);
  }
  const auto tokens = problems_of(*untied(), "N2 p1 m1 1f1b gbs1 | 0-1: t2 d1", 15);
  ASSERT_EQ(tokens.size(), 1u);
  EXPECT_EQ(tokens[0],
            "plan.layers[0].sequence_parallel: got true, allowed: false, or tp in 1, 3, 5, 15 (15 "
            "tokens of a row cannot be cut into 2); in model.embed_tokens and 3 others");
}

TEST(CheckPlan, LayersThatShareAParameterAreAlike) {
  const std::pair<const char*, const char*> heads[] = {
      {"t2 d2 z1", "tp: got 2, allowed: 1"},
      {"t1 d4 z2", "zero: got 2, allowed: 1"},
      {"t1 d4 z1/2", "shards: got 2, allowed: 4"},
  };
  for (const auto& [head, text] : heads) {
    const auto problems =
        problems_of(*tied(), cat("N4 p1 m1 1f1b gbs4 | 0-1: t1 d4 z1 | head: ", head));
    ASSERT_FALSE(problems.empty()) << head;
    EXPECT_EQ(problems[0], cat("plan.layers[3].", text,
                               " (as in model.embed_tokens: both hold model.embed_tokens.weight); "
                               "in lm_head"));
  }
  EXPECT_TRUE(problems_of(*tied(), "N4 p1 m1 1f1b gbs4 | 0-1: t1 d4 z1 | head: t1 d4 z1/4").empty())
      << "4 of 4";
}

// What neither files nor strings can say.
TEST(CheckPlan, RefusesPlansThatDoNotHoldTogether) {
  const auto model = untied();
  const std::pair<std::function<void(Plan&)>, const char*> changes[] = {
      {[](Plan& p) { p.layers.pop_back(); }, "plan.layers: got 3 layers, allowed: 4"},
      {[](Plan& p) { p.stages = 3; }, "plan.pp: got 3, allowed: divisors of the 4 ranks: 1, 2, 4"},
      {[](Plan& p) { p.stages = 0; }, "plan.pp: got 0, allowed: divisors of the 4 ranks"},
      {[](Plan& p) { p.chunks = 3; },
       "plan.pp x plan.chunks: got 2 x 3, allowed: at most 4 (number of layers"},
      {[](Plan& p) { p.microbatches = 3; },
       "plan.microbatches: got 3, allowed: divisors of train.batch = 8: 1, 2, 4, 8"},
      {[](Plan& p) { p.global_batch = 0; }, "plan.microbatches: got 4"},
      {[](Plan& p) {
         p.virtual_stage = {0, 1, 0, 1};
       },
       "plan.virtual_stage[2]: got 0, allowed: 1, 2 (stages are consecutive layers"},
      {[](Plan& p) {
         p.virtual_stage = {1, 1, 1, 1};
       },
       "plan.virtual_stage[0]: got 1, allowed: 0"},
      {[](Plan& p) {
         p.virtual_stage = {0, 0, 0, 0};
       },
       "plan.virtual_stage: got 1 parts, allowed: 2 (plan.pp x plan.chunks), at least one layer"},
      {[](Plan& p) { p.layers[1].dp = 1; },
       "plan.layers[1].dp: got dp 1 x tp 1, allowed: dp x tp = 2 (ranks of a stage); in "},
      {[](Plan& p) { p.layers[1].tp = 0; }, "plan.layers[1].dp: got dp 2 x tp 0, allowed: dp x tp"},
      {[](Plan& p) { p.layers[1].zero = 4; },
       "plan.layers[1].zero: got 4, allowed: 0, 1, 2, 3; in "},
      {[](Plan& p) { p.layers[1].shards = -2; },
       "plan.layers[1].shards: got -2, allowed: 0 (= dp)"},
      {[](Plan& p) { p.schedule = "2f2b"; },
       "plan.schedule: got 2f2b, allowed: gpipe, 1f1b, zb-h1 (no schedule is called \"2f2b\")"},
  };
  for (const auto& [change, text] : changes) {
    Plan plan = parse_plan_string("N4 p2 m4 1f1b gbs8 | 0-1: t1 d2 z0");
    change(plan);
    const auto problems = check_plan(plan, *model);
    ASSERT_EQ(problems.size(), 1u) << text << '\n' << join(problems, "\n");
    EXPECT_TRUE(starts_with(problems[0], text)) << problems[0];
  }
}

TEST(CheckPlan, SaysEverythingAtOnce) {
  const auto problems =
      problems_of(*tied(), "N16 p1 m1 interleaved gbs24 | 0-1: t16 d1 z0 | head: t1 d16 z1/3", 40);
  std::vector<std::string> fields;
  for (const std::string& problem : problems)
    fields.push_back(problem.substr(0, problem.find(':')));
  EXPECT_EQ(join(fields),
            "plan.schedule, plan.layers[0].sequence_parallel, plan.layers[1].tp, "
            "plan.layers[3].dp, plan.layers[3].shards, plan.layers[3].tp, plan.layers[3].zero")
      << join(problems, "\n");
}

TEST(CheckPlan, NumbersWithManyDivisorsAreShort) {
  Plan plan = parse_plan_string("N3 p1 m1 1f1b gbs3 | 0-1: t1 d3 z0");
  plan.global_batch = (int64_t{1} << 40) - 1;
  plan.microbatches = 2;
  const auto problems = check_plan(plan, *untied());
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_LT(problems[0].size(), 300u) << problems[0];
}

}  // namespace check_plan_test
}  // namespace strata
