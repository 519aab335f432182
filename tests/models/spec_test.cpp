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
  const auto hydra = [](int layers) {  // BERT-Hydra of the paper: 70M, 112M, 115M
    return make_model_from_json(
        cat(R"({"model_type": "bert", "matrix_mixer_type": "hydra", "vocab_size": 30528,
      "num_hidden_layers": )",
            layers, "}"),
        "config.json");
  };
  EXPECT_EQ(parameter_count(*hydra(12)), 69992352);
  EXPECT_EQ(parameter_count(*hydra(23)), 112086712);
  EXPECT_EQ(parameter_count(*hydra(24)), 115913472);
}

// Of one mixer at several widths, and the multiply-adds of a block.
TEST(ParameterCounts, OfHydraMixers) {
  struct Size {
    int64_t width, parameters;
    double mega_flops;
  };
  for (const Size& size :
       {Size{256, 473624, 1.354}, Size{512, 1748016, 4.294}, Size{768, 3825224, 8.840},
        Size{1024, 6705248, 14.99}, Size{1536, 14873744, 32.11}, Size{2048, 26253504, 55.65}}) {
    const auto spec = make_model_from_json(
        cat(R"({"model_type": "bert", "matrix_mixer_type": "hydra", "num_hidden_layers": 1,
      "hidden_size": )",
            size.width, "}"),
        "config.json");
    int64_t mixer = 0;
    for (const ParamMeta& meta : parameter_metas(*spec)) {
      if (meta.name.find(".mixer.") != std::string::npos) mixer += meta.elements();
    }
    EXPECT_EQ(mixer, size.parameters);
    EXPECT_NEAR(spec->flops_per_token(1, 128) / 1e6, size.mega_flops, 0.001 * size.mega_flops);
  }
}

// The formula of the layer, and the sizes of the ecosystem's own configurations.
TEST(ParameterCounts, GlaEqualsTheFormula) {
  const auto gla = [](const std::string& sizes) {
    return parameter_count(
        *make_model_from_json(cat(R"({"model_type": "gla")", sizes, "}"), "config.json"));
  };
  EXPECT_EQ(gla(R"(, "hidden_size": 1024)"), 374475776);
  EXPECT_EQ(gla(""), 1365514240);
  EXPECT_EQ(gla(R"(, "hidden_size": 4096, "num_hidden_layers": 32, "num_heads": 16,
      "intermediate_size": 11008)"),
            6741635072);
  EXPECT_EQ(gla(R"(, "hidden_size": 1024, "tie_word_embeddings": true)"), 374475776 - 32768000);
  const std::string small = R"(, "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 100,
      "intermediate_size": 32)";
  const int64_t d = 64, dk = 32, dv = 64, V = 16;
  const int64_t block = 2 * d * dk + 3 * d * dv + 16 * d + 16 * dk + dk + V + 3 * d * 32 + 2 * d;
  EXPECT_EQ(gla(small), block + d + 2 * 100 * d);
  EXPECT_EQ(gla(small + R"(, "elementwise_affine": false)"), block - V + d + 2 * 100 * d);
  EXPECT_EQ(gla(small + R"(, "use_output_gate": false)"), block - d * dv + d + 2 * 100 * d);
  EXPECT_EQ(gla(small + R"(, "use_short_conv": true)"),
            block + 4 * (2 * dk + dv) + d + 2 * 100 * d);
}

TEST(ForeignNames, GlaKnowsItsOutputNormByTwoNames) {
  const std::string own = "model.layers.0.attn.g_norm.weight";
  const std::string fused = "model.layers.0.attn.g_norm_swish_gate.weight";
  const auto name = [&](const std::string& keys) {
    const auto spec = make_model_from_json(cat(R"({"model_type": "gla")", keys, "}"), "c");
    EXPECT_EQ(spec->foreign_aliases(own), (std::vector<std::string>{own, fused}));
    EXPECT_TRUE(spec->foreign_aliases("model.norm.weight").empty());
    EXPECT_EQ(spec->foreign("model.norm.weight").name, "model.norm.weight");
    return spec->foreign(own).name;
  };
  EXPECT_EQ(name(""), fused);
  EXPECT_EQ(name(R"(, "fuse_norm": false)"), own);
  EXPECT_EQ(name(R"(, "use_output_gate": false)"), own);
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
  expect_problem(R"({"model_type": "gla", "num_heads": 5})", "expand_k");
  expect_problem(R"({"model_type": "gla", "num_kv_heads": 3})", "num_kv_heads");
  expect_problem(R"({"model_type": "gla", "hidden_act": "relu"})", "hidden_act");
  expect_problem(R"({"model_type": "gla", "feature_map": "tanh"})", "feature_map");
  expect_problem(R"({"model_type": "gla", "use_l2warp": true})", "use_l2warp");
  expect_problem(R"({"model_type": "gla", "attn": {"layers": [24], "num_heads": 8}})", "layers");
  expect_problem(R"({"model_type": "gla", "attn": {"layers": [1], "num_heads": 7}})", "num_heads");
  expect_problem(R"({"model_type": "bert"})", "matrix_mixer_type");
  expect_problem(R"({"model_type": "bert", "matrix_mixer_type": "attention"})", "\"hydra\"");
  const auto hydra = [&](const std::string& keys, const std::string& fragment) {
    expect_problem(cat(R"({"model_type": "bert", "matrix_mixer_type": "hydra", )", keys, "}"),
                   fragment);
  };
  hydra(R"("d_conv": 4)", "d_conv");
  hydra(R"("headdim": 7)", "headdim");
  hydra(R"("ngroups": 5)", "ngroups");
  hydra(R"("norm_groups": 7)", "norm_groups");
  hydra(R"("dt_limit": [0.1])", "dt_limit");
  hydra(R"("dt_limit": [0.0, Infinity], "d_conv": 2)", "d_conv");
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
