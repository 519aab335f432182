#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"
#include "models/register.h"
#include "tests/support/tiny_models.h"

namespace strata {
namespace {

int64_t parameter_count(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParamMeta& meta : parameter_metas(spec)) total += meta.elements();
  return total;
}

// Published sizes; nothing is allocated.
TEST(ParameterCounts, EqualThePublishedOnes) {
  const auto llama = [](const std::string& sizes) {
    return make_model_from_json(cat(R"({"model_type": "llama", )", sizes, "}"), "config.json");
  };
  EXPECT_EQ(parameter_count(*llama(R"("vocab_size": 32000)")), 6738415616);  // Llama 2 7B
  EXPECT_EQ(parameter_count(
                *llama(R"("vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8)")),
            8030261248);  // Llama 3 8B
  EXPECT_EQ(parameter_count(
                *llama(R"("vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
      "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": true)")),
            1235814400);  // Llama 3.2 1B
  EXPECT_EQ(parameter_count(*make_model_from_json(R"({"model_type": "gpt2"})", "config.json")),
            124439808);
  EXPECT_EQ(
      parameter_count(*make_model_from_json(
          R"({"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25})", "config.json")),
      1557611200);
}

// Parameters of the connections beside those of the same model without: three published sizes.
TEST(ParameterCounts, OfResidualStreams) {
  const auto count = [](int layers, int heads, int width, const std::string& kind) {
    return parameter_count(*make_model_from_json(
        cat(R"({"model_type": "mhc_lite_gpt", "vocab_size": 50304, "block_size": 1024, "bias": false,
      "n_layer": )",
            layers, R"(, "n_head": )", heads, R"(, "n_embd": )", width, R"(, "hyper_conn_type": ")",
            kind, R"(", "hyper_conn_n": 4})"),
        "config.json"));
  };
  const struct {
    int layers, heads, width;
    int64_t base, lite, mhc, hc;
  } sizes[] = {{6, 8, 512, 45160960, 811428, 614724, 43320},
               {12, 12, 768, 124373760, 2433864, 1843848, 129648},
               {24, 16, 1024, 354599936, 6489744, 4916496, 345312}};
  for (const auto& s : sizes) {
    const int64_t base = count(s.layers, s.heads, s.width, "none");
    EXPECT_EQ(base, s.base);
    EXPECT_EQ(count(s.layers, s.heads, s.width, "mhc_lite") - base, s.lite);
    EXPECT_EQ(count(s.layers, s.heads, s.width, "mhc") - base, s.mhc);
    EXPECT_EQ(count(s.layers, s.heads, s.width, "hc") - base, s.hc);
  }
}

TEST(ForeignConfig, RoundTrips) {
  for (const auto& tiny : testing::tiny_models()) {
    auto spec = testing::make_tiny(tiny);
    auto again = make_model_from_json(spec->foreign_config(), "written");
    EXPECT_EQ(spec->foreign_config(), again->foreign_config()) << tiny.name;
    EXPECT_EQ(parameter_count(*spec), parameter_count(*again));
  }
}

TEST(ForeignConfig, BothFormsOfRopeAreRead) {
  const std::string old_form = R"({"model_type": "llama", "rope_theta": 5e5,
      "rope_scaling": {"type": "linear", "factor": 4.0}})";
  const std::string new_form =
      R"({"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "linear",
      "factor": 4.0}})";
  const auto a = nlohmann::json::parse(make_model_from_json(old_form, "a")->foreign_config());
  const auto b = nlohmann::json::parse(make_model_from_json(new_form, "b")->foreign_config());
  EXPECT_EQ(a, b);
  EXPECT_EQ(a["rope_theta"], 5e5);
  EXPECT_EQ(a["rope_scaling"]["factor"], 4.0);
}

TEST(ForeignConfig, ProblemsNameTheKey) {
  auto expect_problem = [](const std::string& text, const std::string& fragment) {
    try {
      make_model_from_json(text, "config.json");
      ADD_FAILURE() << text;
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(fragment), std::string::npos) << e.what();
    }
  };
  expect_problem(R"({"model_type": "lama"})", "Did you mean \"llama\"?");
  expect_problem(R"({"hidden_size": 3})", "model_type");
  expect_problem("[1]", "config.json");
  expect_problem(R"({"model_type": "llama", "num_attention_heads": 7})", "num_attention_heads");
  expect_problem(R"({"model_type": "llama", "hidden_act": "gelu"})", "hidden_act");
  expect_problem(R"({"model_type": "gpt2", "n_embd": 10, "n_head": 3})", "n_head");
}

TEST(Spec, FlopsPerTokenOfABlock) {
  auto spec =
      make_model_from_json(R"({"model_type": "llama", "hidden_size": 512, "intermediate_size": 1408,
      "num_attention_heads": 8, "num_hidden_layers": 1, "vocab_size": 8192})",
                           "m");
  EXPECT_EQ(spec->flops_per_token(1, 512),
            2.0 * (4 * 512 * 512 + 3 * 512 * 1408) + 4.0 * 512 * 512);
  EXPECT_EQ(spec->flops_per_token(2, 512), 2.0 * 512 * 8192);
}

}  // namespace
}  // namespace strata
