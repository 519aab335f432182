// What an optimizer will do, told without running it.
#include "optim/optimizer_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "core/text.h"
#include "models/register.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/soap.h"

namespace strata::testing {
namespace optimizer_plan_test_detail {

// Twelve layers of 768 features, about 85 M parameters in the blocks.
std::shared_ptr<const ModelSpec> twelve_layers() {
  return make_model_from_json(
      R"({"model_type": "llama", "hidden_size": 768, "num_hidden_layers": 12,
          "num_attention_heads": 12, "intermediate_size": 2048, "vocab_size": 32000,
          "max_position_embeddings": 1024})",
      "test");
}

std::shared_ptr<const RuleSet> with(std::unique_ptr<UpdateRule> rule, RuleSetConfig config = {}) {
  return std::make_shared<const RuleSet>(std::move(rule), make_adamw({}), config, 1);
}

std::map<std::string, std::shared_ptr<const RuleSet>> rule_sets() {
  return {{"muon", with(make_muon({}))},
          {"soap", with(make_soap({}))},
          {"galore", with(make_galore({.rank = 192}))}};
}

OptimizerPlan planned(std::shared_ptr<const ModelSpec> spec, int ranks, int tp, int pp, int zero,
                      std::shared_ptr<const RuleSet> rules) {
  UniformPlan request;
  request.world_size = ranks;
  request.pp = pp;
  request.strategy.tp = tp;
  request.strategy.zero = zero;
  request.global_batch = ranks;
  request.microbatches = pp;
  const Plan plan = make_uniform_plan(request, spec->layer_count());
  return plan_optimizer(spec, plan, std::move(rules), {}, {});
}

}  // namespace optimizer_plan_test_detail

using namespace optimizer_plan_test_detail;

TEST(OptimizerPlan, OwnersShareTheWorkEvenly) {
  const auto spec = twelve_layers();
  for (const auto& [name, rules] : rule_sets()) {
    for (const int owners : {2, 4, 8}) {
      for (const auto& [tp, zero] : {std::pair(1, 1), {1, 3}, {2, 0}, {2, 1}, {owners, 0}}) {
        if (tp > 1 && owners / tp == 1 && zero > 0) continue;
        const int ranks = zero == 0 ? tp : owners;
        if (ranks < 2 || 12 % tp != 0) continue;  // heads
        const OptimizerPlan plan = planned(spec, ranks, tp, 1, zero, rules);
        EXPECT_LE(plan.imbalance(), 1.10)
            << name << ", " << ranks << " ranks, tp " << tp << ", zero " << zero;
        EXPECT_EQ(plan.matrices.size(), 84u);
      }
    }
  }
}

TEST(OptimizerPlan, EveryMatrixHasOneOwnerPerCopy) {
  const auto spec = twelve_layers();
  const auto rules = with(make_muon({}));
  const OptimizerPlan plan = planned(spec, 8, 2, 2, 0, rules);
  int64_t owned = 0;
  for (const OptimizerShare& share : plan.ranks) owned += share.matrices;
  EXPECT_EQ(owned, 84 * 2);  // two copies of each stage
  for (const MatrixAssignment& m : plan.matrices) {
    ASSERT_EQ(m.owners.size(), 2u) << m.parameter;
    EXPECT_EQ(m.owners[1], m.owners[0] + 2);
    EXPECT_EQ(m.holders.size(), 2u);
    EXPECT_GE(m.round, 0);
    EXPECT_EQ(m.gathered, m.rows * m.cols / 2);
    EXPECT_EQ(m.stage, m.owners[0] / 4);
  }
  // Nothing travels where nothing is cut.
  for (const MatrixAssignment& m : planned(spec, 4, 1, 1, 2, rules).matrices) {
    EXPECT_EQ(m.round, -1);
    EXPECT_EQ(m.gathered, 0);
    EXPECT_EQ(m.holders, m.owners);
  }
}

TEST(OptimizerPlan, MatricesCutAlongTheLongerSideCanBeShared) {
  const auto spec = twelve_layers();
  const auto rules = with(make_muon({.tp_mode = "gram"}));
  const OptimizerPlan plan = planned(spec, 4, 2, 1, 1, rules);
  for (const MatrixAssignment& m : plan.matrices) {
    EXPECT_TRUE(m.shared) << m.parameter;
    EXPECT_EQ(m.owners.size(), 2u);
    EXPECT_EQ(m.round, -1);
  }
  EXPECT_LE(plan.imbalance(), 1.10);
  // 4 square matrices of 768 x 768 take a sum in each of 5 steps, 3 of 2048 x 768 two; half of the
  // layers are updated by this rank. A sum of n fp32 over two ranks is n 4 bytes both ways.
  int64_t sent = 0;
  for (const OptimizerShare& share : plan.ranks) sent += share.exchange_bytes;
  EXPECT_EQ(sent / 4, 12 * (4 * 5 + 3 * 2) * 768 * 768 * 4);
  // Not at ZeRO 3, which cuts once more; and not along the shorter side.
  for (const MatrixAssignment& m : planned(spec, 4, 2, 1, 3, rules).matrices)
    EXPECT_FALSE(m.shared) << m.parameter;
  const std::shared_ptr<const ModelSpec> wide = make_model_from_json(
      R"({"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 1,
          "num_attention_heads": 4, "intermediate_size": 192, "vocab_size": 256,
          "max_position_embeddings": 64})",
      "test");
  for (const MatrixAssignment& m : planned(wide, 2, 2, 1, 0, rules).matrices)
    EXPECT_EQ(m.shared, m.parameter.find("mlp") == std::string::npos) << m.parameter;
}

// SOAP without a factor of the longer side and GaLore, too; not where the longer side has a factor.
TEST(OptimizerPlan, FactorsOfTheShorterSideCanBeShared) {
  const auto spec = twelve_layers();
  const auto soap = [&](const char* one_sided) {
    return planned(spec, 2, 2, 1, 0, with(make_soap({.one_sided = one_sided, .tp_mode = "gram"})));
  };
  const OptimizerPlan one = soap("always"), both = soap("auto");
  const OptimizerPlan galore = planned(
      spec, 2, 2, 1, 0, with(make_galore({.rank = 192, .update_proj_gap = 4, .tp_mode = "gram"})));
  int64_t shared = 0;
  for (size_t i = 0; i < one.matrices.size(); ++i) {
    // o and down are cut along their columns: the rows of a square o have the factor (SOAP), its
    // columns are projected (GaLore); q, k and v the other way round.
    const std::string& name = one.matrices[i].parameter;
    const bool mlp = name.find("mlp") != std::string::npos,
               o = name.find("o_proj") != std::string::npos;
    EXPECT_EQ(one.matrices[i].shared, mlp || o) << name;
    shared += one.matrices[i].shared;
  }
  EXPECT_EQ(shared, 12 * 4);
  for (const MatrixAssignment& m : both.matrices) EXPECT_FALSE(m.shared) << m.parameter;
  for (const MatrixAssignment& m : galore.matrices)
    EXPECT_EQ(m.shared, m.parameter.find("o_proj") == std::string::npos) << m.parameter;
  EXPECT_LE(one.imbalance(), 1.10);
  EXPECT_LE(galore.imbalance(), 1.10);
  // Each rank has all of a projector, and nothing is copied to an owner.
  const auto bytes = [](const OptimizerPlan& plan) {
    int64_t sum = 0;
    for (const OptimizerShare& share : plan.ranks) sum += share.state_bytes;
    return sum;
  };
  const OptimizerPlan owners =
      planned(spec, 2, 2, 1, 0, with(make_galore({.rank = 192, .update_proj_gap = 4})));
  EXPECT_EQ(bytes(galore) - bytes(owners),
            12 * 4 * (6 * 192 * 768 - 3 * 768 * 768 - 3 * 768 * 2048));
  // Every fourth update adds up 768 x 768 values, and o travels.
  EXPECT_LT(galore.ranks[0].exchange_bytes + galore.ranks[1].exchange_bytes,
            (owners.ranks[0].exchange_bytes + owners.ranks[1].exchange_bytes) / 2);
}

TEST(OptimizerPlan, RulesAndTheirState) {
  const auto spec = twelve_layers();
  RuleSetConfig config;
  config.exclude = {"*.k_proj.weight"};
  const auto assigned =
      assign_rules(*spec, *with(make_galore({.rank = 192}), config), at::kBFloat16);
  std::map<std::string, RuleAssignment> by_name;
  for (const RuleAssignment& a : assigned) by_name[a.parameter] = a;
  const RuleAssignment& q = by_name.at("model.layers.3.self_attn.q_proj.weight");
  EXPECT_EQ(q.rule, "galore");
  EXPECT_EQ(q.why, "a matrix");
  EXPECT_EQ(q.state_bytes, 4 * 3 * 192 * 768);  // m, v, the projector
  EXPECT_EQ(q.adamw_bytes, 8 * 768 * 768);
  EXPECT_EQ(q.master_bytes, 4 * 768 * 768);
  const RuleAssignment& up = by_name.at("model.layers.3.mlp.up_proj.weight");
  EXPECT_EQ(up.state_bytes, 4 * 192 * (2 * 2048 + 768));
  const RuleAssignment& k = by_name.at("model.layers.3.self_attn.k_proj.weight");
  EXPECT_EQ(k.rule, "adamw");
  EXPECT_EQ(k.why, "optim.exclude");
  EXPECT_EQ(k.state_bytes, k.adamw_bytes);
  const RuleAssignment& norm = by_name.at("model.norm.weight");
  EXPECT_EQ(norm.why, "a vector");
  EXPECT_EQ(norm.master_bytes, 0);  // norms are fp32 anyway
  EXPECT_EQ(by_name.at("lm_head.weight").why, "the head");
  EXPECT_EQ(assigned.size(), 12u * 9 + 3);
}

TEST(OptimizerPlan, StateOfRanksAddsUp) {
  const auto spec = twelve_layers();
  for (const auto& [name, rules] : rule_sets()) {
    int64_t all = 0, sum = 0;
    for (const RuleAssignment& a : assign_rules(*spec, *rules, at::kFloat)) all += a.state_bytes;
    for (const OptimizerShare& share : planned(spec, 4, 1, 1, 1, rules).ranks)
      sum += share.state_bytes;
    EXPECT_EQ(sum, all) << name;
  }
}

}  // namespace strata::testing
