// Rules on matrices: the weights after twenty updates are those of one process, however the
// matrices are cut, and nothing travels where nothing has to.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/text.h"
#include "models/register.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace matrix_rules_detail {

constexpr int64_t kSteps = 20;

struct Rule {
  std::string name, keys;
  double lr, tolerance;
};
const std::vector<Rule>& rules() {
  static const std::vector<Rule> all{
      {"muon", "", 0.01, 1e-10},
      {"muon", "coefficients = pe5\nscale = original\nnesterov = false\n", 0.01, 1e-10},
      {"muon", "tp_mode = gram\n", 0.01, 1e-10},
      {"muon", "tp_mode = gram\ncoefficients = pe8\n", 0.01, 1e-10},
      // Both sides of a rectangle have no unique basis at first: the larger factor is of low rank.
      {"soap", "precondition_frequency = 4\none_sided = always\n", 0.003, 1e-10},
      {"soap", "tp_mode = gram\nprecondition_frequency = 4\none_sided = always\n", 0.003, 1e-10},
      {"galore", "rank = 4\nupdate_proj_gap = 6\n", 0.01, 1e-10},
      {"galore", "tp_mode = gram\nrank = 4\nupdate_proj_gap = 6\n", 0.01, 1e-10},
  };
  return all;
}

// A row for each rank in a micro-batch.
RunSetup setup_of_job() {
  RunSetup s;
  s.global_batch = std::max<int64_t>(s.global_batch, s.microbatches * test::world_size());
  return s;
}

// tp, pp, ZeRO, parts of ZeRO.
std::vector<RunSetup> layouts() {
  std::vector<RunSetup> out;
  const int world = test::world_size();
  for (const int pp : {1, 2}) {
    for (const int tp : {1, 2, 4}) {
      if (pp * tp > world) continue;
      for (const int zero : {0, 1, 2, 3}) {
        const int dp = world / pp / tp;
        if (zero > 0 && dp == 1) continue;
        RunSetup s = setup_of_job();
        s.pp = pp;
        s.strategy.tp = tp;
        s.strategy.zero = zero;
        s.strategy.sequence_parallel = tp > 1 && zero == 1;
        out.push_back(s);
        if (zero > 0 && dp == 4) {
          s.strategy.shards = 2;
          out.push_back(s);
        }
      }
    }
  }
  return out;
}

std::string text_of(const RunSetup& s) {
  return cat("tp ", s.strategy.tp, " pp ", s.pp, " zero ", s.strategy.zero, " shards ",
             s.strategy.shards);
}

std::map<std::string, Tensor> trained(std::shared_ptr<const ModelSpec> model, RunSetup setup,
                                      const Rule& rule, std::unique_ptr<Communicator> job,
                                      int64_t steps = kSteps) {
  setup.rule = rule.name;
  // Biases of keys have no gradient but rounding, which AdamW would blow up.
  setup.rule_keys = rule.keys + "aux.eps = 1e-6\n";
  setup.max_grad_norm = 0.5;
  ModelRun run(std::move(model), setup, std::move(job));
  for (int64_t step = 0; step < steps; ++step) (void)run.step(step, rule.lr);
  return run.weights();
}
std::map<std::string, Tensor> trained(const TinyModel& model, const RunSetup& setup,
                                      const Rule& rule, std::unique_ptr<Communicator> job) {
  return trained(make_tiny(model), setup, rule, std::move(job));
}

}  // namespace matrix_rules_detail

using namespace matrix_rules_detail;

// Not gla_conv_kv: its gates are clamped, so that gradients of their weights are rounding, which
// orthogonalisation makes large.
TEST(MatrixRules, EqualOneProcess) {
  for (const size_t index : {size_t{0}, size_t{2}, size_t{6}, size_t{10}}) {
    const TinyModel& model = tiny_models()[index];
    for (const Rule& rule : rules()) {
      // Four ranks have many layouts: every rule on two models, the first on all.
      if (test::world_size() > 2 && index != 0 && index != 6 && &rule != &rules()[0]) continue;
      const RunSetup serial = setup_of_job();
      const auto expected = trained(model, serial, rule, make_self_communicator());
      for (const RunSetup& setup : layouts()) {
        if (setup.strategy.tp == 4 && index != 0) continue;
        SCOPED_TRACE(cat(model.name, " ", rule.name, " ", text_of(setup)));
        const auto got = trained(model, setup, rule, make_mpi_communicator());
        if (got.empty()) continue;  // not the first rank
        ASSERT_EQ(got.size(), expected.size());
        for (const auto& [name, value] : expected)
          EXPECT_LE(relative_error(got.at(name), value, value), rule.tolerance) << name;
      }
    }
  }
}

// Mixed layers: neighbours of different tp and ZeRO in one stage.
TEST(MatrixRules, MixedPlansEqualOneProcess) {
  const int world = test::world_size();
  if (world < 2) return;
  const TinyModel& model = tiny_models()[4];
  for (const Rule& rule : rules()) {
    RunSetup mixed = setup_of_job();
    mixed.edit = [&](Plan& plan) {
      for (size_t l = 0; l < plan.layers.size(); ++l) {
        LayerStrategy& s = plan.layers[l];
        if (l == 0 || l + 1 == plan.layers.size()) continue;
        s.tp = l % 2 == 0 ? 2 : 1;
        s.dp = world / s.tp;
        s.zero = s.dp > 1 ? static_cast<int>(l % 4) : 0;
      }
    };
    const auto expected = trained(model, setup_of_job(), rule, make_self_communicator());
    const auto got = trained(model, mixed, rule, make_mpi_communicator());
    for (const auto& [name, value] : got)
      EXPECT_LE(relative_error(value, expected.at(name), value), rule.tolerance) << name;
  }
}

// Matrices for which processors with a matrix unit use it (core/ops/tile_product.h): fp32, as far
// as gradients agree.
TEST(MatrixRules, LargeMatricesInFp32) {
  if (test::world_size() < 2) return;
  const std::shared_ptr<const ModelSpec> model = make_model_from_json(
      R"({"model_type": "llama", "hidden_size": 192, "num_hidden_layers": 1,
          "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 64,
          "max_position_embeddings": 32})",
      "test");
  for (const Rule& rule : {Rule{"muon", "", 0.01, 1e-4},
                           {"muon", "tp_mode = gram\n", 0.01, 1e-4},
                           {"galore", "rank = 48\nsvd = gram\n", 0.01, 1e-4},
                           {"galore", "rank = 48\ntp_mode = gram\n", 0.01, 1e-4}}) {
    RunSetup one = setup_of_job();
    one.dtype = at::kFloat;
    const auto expected = trained(model, one, rule, make_self_communicator(), 4);
    for (const int zero : {0, 1}) {
      RunSetup cut = one;
      cut.strategy.zero = zero;
      cut.strategy.tp = zero == 0 ? 2 : 1;
      SCOPED_TRACE(cat(rule.name, " ", rule.keys, " ", text_of(cut)));
      for (const auto& [name, value] : trained(model, cut, rule, make_mpi_communicator(), 4))
        EXPECT_LE(relative_error(value, expected.at(name), value), rule.tolerance) << name;
    }
  }
}

// What `strata plan show --optimizer` says without running.
TEST(MatrixRules, PlansAreWhatRunsDo) {
  for (const Rule& rule : rules()) {
    for (RunSetup setup : layouts()) {
      SCOPED_TRACE(cat(rule.name, " ", rule.keys, " ", text_of(setup)));
      setup.rule = rule.name;
      setup.rule_keys = rule.keys;
      setup.dtype = setup.strategy.zero == 2 ? at::kBFloat16 : at::kDouble;
      ModelRun run(tiny_models()[0], setup, make_mpi_communicator());
      const OptimizerPlan plan = run.optimizer_plan();
      const auto me = static_cast<size_t>(test::world_rank());
      ASSERT_EQ(plan.ranks.size(), static_cast<size_t>(test::world_size()));
      const OptimizerShare& share = plan.ranks[me];
      EXPECT_EQ(share.state_bytes, run.optimizer().state_bytes());
      EXPECT_EQ(share.exchange_bytes, run.optimizer().exchange_bytes());
      const MatrixPlacement& placement = run.manager().matrices();
      const int stage_rank = run.manager().stage_ranks().rank();
      int64_t matrices = 0;
      for (const OwnedMatrix& m : placement.matrices) matrices += m.owned_by(stage_rank);
      EXPECT_EQ(share.matrices, matrices);
      int64_t named = 0;
      for (const MatrixAssignment& m : plan.matrices)
        named += std::count(m.owners.begin(), m.owners.end(), test::world_rank());
      EXPECT_EQ(named, matrices);
    }
  }
}

// At ZeRO 0 without tp, and at ZeRO 1 and 2, matrices are where they are updated.
TEST(MatrixRules, NothingTravelsInAlignedLayouts) {
  const int world = test::world_size();
  for (const int zero : {0, 1, 2, 3}) {
    if (world == 1 && zero > 0) continue;
    RunSetup s = setup_of_job();
    s.rule = "muon";
    s.strategy.zero = zero;
    ModelRun run(tiny_models()[4], s, make_mpi_communicator());
    const std::vector<double>& loads = run.manager().matrices().loads;
    if (zero < 3) {
      EXPECT_EQ(run.optimizer().exchange_bytes(), 0) << zero;
    } else {
      EXPECT_GT(run.optimizer().exchange_bytes(), 0);
    }
    if (zero == 0) {
      for (const double load : loads) EXPECT_EQ(load, loads[0]);
    } else {
      EXPECT_LT(*std::max_element(loads.begin(), loads.end()), 2 * loads[0] + 1);
    }
  }
}

}  // namespace strata::testing
