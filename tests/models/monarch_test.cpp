// Structured linears in models: sizes, refusals, initial values, and the way to dense weights and
// back.
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/ops/monarch.h"
#include "core/text.h"
#include "models/register.h"
#include "parallel/engine/converted_weights.h"
#include "parallel/engine/weight_source.h"
#include "parallel/plan/plan.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace monarch_model_detail {

std::shared_ptr<const ModelSpec> model(const std::string& family, const std::string& keys) {
  return make_model_from_json(cat(R"({"model_type": ")", family, R"(", )", keys, "}"),
                              "config.json");
}
double millions(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParamMeta& meta : parameter_metas(spec)) total += meta.elements();
  return static_cast<double>(total) / 1e6;
}

TEST(MonarchModel, ParameterCounts) {
  const std::string small = R"("n_embd": 768, "n_layer": 12, "n_head": 12)",
                    medium = R"("n_embd": 1024, "n_layer": 24, "n_head": 16)",
                    mlp = R"(, "linear": "monarch", "linear_targets": ["mlp.*"])",
                    all = R"(, "linear": "monarch")";
  EXPECT_NEAR(millions(*model("gpt2", small)), 124.4, 0.05);
  EXPECT_NEAR(millions(*model("gpt2", small + mlp)), 85.5, 0.05);
  EXPECT_NEAR(millions(*model("gpt2", small + all)), 67.8, 0.05);
  EXPECT_NEAR(millions(*model("gpt2", medium + mlp)), 216.4, 0.05);
  EXPECT_NEAR(millions(*model("gpt2", medium + all)), 153.5, 0.05);
  // Separate projections: half of a square matrix, 5/16 of one to four times the width.
  std::map<std::string, int64_t> sizes;
  for (const ParamMeta& meta : parameter_metas(
           *model("llama", R"("hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12,
           "intermediate_size": 3072, "linear": "monarch")"))) {
    sizes[meta.name.substr(0, meta.name.rfind('.'))] += meta.elements();
  }
  EXPECT_EQ(sizes.at("model.layers.0.self_attn.q_proj"), 294912);
  EXPECT_EQ(sizes.at("model.layers.0.self_attn.o_proj"), 294912);
  EXPECT_EQ(sizes.at("model.layers.0.mlp.up_proj"), 737280);
  EXPECT_EQ(sizes.at("model.layers.0.mlp.down_proj"), 737280);
}

TEST(MonarchModel, WhatIsNotUsefulOrPossibleIsRefused) {
  const auto expect_problem = [](const std::string& keys, const std::string& fragment) {
    try {
      parameter_metas(*model("llama", R"("hidden_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 4, "intermediate_size": 48, )" +
                                          keys));
      ADD_FAILURE() << keys;
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(fragment), std::string::npos) << e.what();
    }
  };
  expect_problem(R"("linear": "monarch", "linear_blocks": 2)", "at least 3");
  expect_problem(R"("linear": "monarch", "linear_blocks": 33)", "linear_blocks");
  expect_problem(R"("linear": "monarch", "linear_shuffle": true)", "linear_shuffle");
  expect_problem(R"("linear": "monarchs")", "Did you mean \"monarch\"?");
  expect_problem(R"("linear": "blockdiag", "linear_targets": [])", "linear_targets");
  expect_problem(R"("linear": "monarch", "linear_targets": ["mlp.*", "mlp.up_prj"])",
                 "Did you mean \"mlp.up_proj\"?");
}

// Every linear that a family names is one, and there are no others.
TEST(MonarchModel, EveryNameIsATarget) {
  const std::pair<std::string, std::string> families[] = {
      {"llama", R"("num_attention_heads": 8)"},
      {"gpt2", R"("n_head": 8)"},
      {"gla", R"("num_heads": 8, "attn": {"layers": [1], "num_heads": 8})"},
      {"gated_deltaproduct",
       R"("num_heads": 8, "head_dim": 8, "use_forget_gate": true,
          "attn": {"layers": [1], "num_heads": 8})"},
      {"bert", R"("matrix_mixer_type": "hydra", "headdim": 16)"}};
  for (const auto& [family, keys] : families) {
    const std::string size = family == "gpt2" ? R"("n_embd": 64, "n_layer": 2)"
                                              : R"("hidden_size": 64, "num_hidden_layers": 2)";
    const auto structured = [&](const std::string& target) {
      std::set<std::string> out;
      for (const ParamMeta& meta :
           parameter_metas(*model(family, cat(size, ", ", keys, R"(, "linear": "monarch")",
                                              R"(, "linear_targets": [")", target, "\"]")))) {
        const size_t end = meta.name.rfind(".blkdiag1");
        if (end == std::string::npos) continue;
        const std::string linear = meta.name.substr(0, end);
        const size_t digit = linear.find_first_of("0123456789");  // of the block
        const std::string within = linear.substr(linear.find('.', digit) + 1);
        out.insert(starts_with(within, "layer.") ? within.substr(6) : within);
      }
      return out;
    };
    try {
      structured("no_such_linear");
      ADD_FAILURE() << family;
    } catch (const ConfigError& e) {
      const std::string text = e.what();
      for (const std::string& name : structured("*")) {
        EXPECT_NE(text.find(name), std::string::npos) << name << " in " << text;
        EXPECT_EQ(structured(name), std::set<std::string>{name});
      }
    }
  }
}

// tp must divide the blocks, and heads must be whole numbers of rows of every block.
TEST(MonarchModel, CutsThatBlocksDoNotAllowAreRefused) {
  const auto problems = [](const std::string& keys, int tp) {
    const auto spec = model("gpt2", R"("n_layer": 1, "n_positions": 32, )" + keys);
    UniformPlan request;
    request.world_size = tp;
    request.strategy.tp = tp;
    request.global_batch = 4;
    return join(check_plan(make_uniform_plan(request, spec->layer_count()), *spec, 16), "\n");
  };
  const std::string four = R"("n_embd": 48, "n_head": 4, "linear": "monarch")";
  EXPECT_EQ(problems(four, 2), "");
  EXPECT_EQ(problems(four, 4), "");
  EXPECT_NE(problems(R"("n_embd": 48, "n_head": 8, "n_inner": 96, "linear": "monarch")", 8)
                .find("blkdiag"),
            std::string::npos);  // eight parts of four blocks
  EXPECT_NE(problems(R"("n_embd": 48, "n_head": 8, "linear": "monarch", "linear_blocks": 8)", 4)
                .find("c_attn.blkdiag2"),
            std::string::npos);  // heads of 6 features among 8 blocks: 3 rows, 6 rows have 2 units
  EXPECT_NE(
      problems(R"("n_embd": 48, "n_head": 4, "linear": "blockdiag")", 2).find("c_attn.weight"),
      std::string::npos);  // q, k and v in one
}

TEST(MonarchModel, InitialValuesVaryAsAskedFor) {
  const auto dense_of = [](const std::string& init) {
    const auto spec = model("llama", cat(R"("hidden_size": 256, "num_hidden_layers": 1,
        "num_attention_heads": 4, "intermediate_size": 512, "linear": "monarch", "linear_init": ")",
                                         init, R"(")"));
    ModelRun run(spec, RunSetup{}, make_self_communicator());
    const auto w = run.weights();
    const std::string name = "model.layers.0.mlp.up_proj.blkdiag";
    return ops::monarch_to_dense(w.at(name + "1"), w.at(name + "2"), 512, 256);
  };
  // Variance of an output for inputs of variance one is the squared norm over the outputs.
  const auto variance = [](const Tensor& w) { return w.square().sum().item<double>() / 512; };
  EXPECT_NEAR(variance(dense_of("reference")), 1.0 / 9, 0.01);
  EXPECT_NEAR(variance(dense_of("match_dense")), 256 * 0.02 * 0.02, 0.006);
  EXPECT_NEAR(variance(dense_of("project_dense")), 256 * 0.02 * 0.02, 0.002);
}

// Weights of a run by name.
class NamedWeights final : public WeightSource {
 public:
  explicit NamedWeights(std::map<std::string, Tensor> weights) : weights_(std::move(weights)) {}
  Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const override {
    Tensor t = weights_.at(parameter.meta.name);
    for (size_t d = 0; d < box.extent.size(); ++d)
      t = t.narrow(static_cast<int64_t>(d), box.offset[d], box.extent[d]);
    return t.to(dtype).contiguous();
  }
  std::string description() const override { return "weights of a run"; }

 private:
  std::map<std::string, Tensor> weights_;
};

// Structured -> dense computes the same; dense -> structured -> dense stays the same from then on.
TEST(MonarchModel, ConversionsKeepTheFunction) {
  for (const TinyModel& tiny : tiny_models()) {
    if (tiny.name.find("monarch") == std::string::npos &&
        tiny.name.find("blockdiag") == std::string::npos)
      continue;
    const std::shared_ptr<const ModelSpec> structured = make_tiny(tiny);
    std::string text = structured->foreign_config();
    const size_t at = text.find("\"structured_linear\": \"");
    ASSERT_NE(at, std::string::npos) << text;
    const size_t value = at + std::string("\"structured_linear\": \"").size();
    text.replace(value, text.find('"', value) - value, "Linear");
    const std::shared_ptr<const ModelSpec> dense =
        make_model_from_json(text, "dense", tiny.options);

    RunSetup setup;
    ModelRun a(structured, setup, make_self_communicator()),
        b(dense, setup, make_self_communicator()), c(structured, setup, make_self_communicator());
    const NamedWeights initial(a.weights());
    const auto to_dense = make_converted_weights(initial, *structured);
    const auto back = make_converted_weights(*to_dense, *dense);
    b.manager().load_weights(*to_dense);
    c.manager().load_weights(*back);
    const Batch rows = tiny_rows(structured->vocabulary(), 0, 3, 11, 5, false);
    const Tensor expected = a.manager().logits(rows);
    EXPECT_LE(relative_error(b.manager().logits(rows), expected, expected), 1e-12) << tiny.name;
    EXPECT_LE(relative_error(c.manager().logits(rows), expected, expected), 1e-10) << tiny.name;
    for (const ProjectionError& e : projection_errors(*back))
      EXPECT_LE(e.relative, 1e-12) << e.name;
    EXPECT_FALSE(projection_errors(*back).empty());
  }
}

// Dense matrices, the reference's factors and what it makes of them.
TEST(MonarchModel, ProjectionsAreThoseOfTheReference) {
  const std::filesystem::path golden =
      std::filesystem::path(__FILE__).parent_path() / "../golden/monarch-all";
  const io::SafetensorsReader file((golden / "projection.safetensors").string());
  int cases = 0;
  for (const auto& [name, text] : file.metadata()) {
    const auto how = nlohmann::json::parse(text, nullptr, false);
    if (!how.is_object()) continue;
    ++cases;
    const Tensor dense = file.read(name + ".dense"), expected = file.read(name + ".reconstructed");
    const auto w1 = how["w1"].get<Shape>(), w2 = how["w2"].get<Shape>();
    const auto f = ops::project_to_monarch(dense, w1[0], w1[1], w2[0]);
    EXPECT_EQ(f.w1_KQP.sizes(), at::IntArrayRef(w1)) << name;
    EXPECT_EQ(f.w2_LSR.sizes(), at::IntArrayRef(w2)) << name;
    const Tensor near = ops::monarch_to_dense(f.w1_KQP, f.w2_LSR, dense.size(0), dense.size(1));
    EXPECT_LE(relative_error(near, expected, expected), 1e-10) << name;
    const double error = how["error_sq"].get<double>();
    EXPECT_NEAR(f.squared_error, error, 1e-9 * error) << name;
    // The reference's own factors mean the same matrix here.
    const Tensor theirs = ops::monarch_to_dense(file.read(name + ".w1"), file.read(name + ".w2"),
                                                dense.size(0), dense.size(1));
    EXPECT_LE(relative_error(theirs, expected, expected), 1e-12) << name;
  }
  EXPECT_GE(cases, 7);
}

}  // namespace monarch_model_detail
}  // namespace strata::testing
