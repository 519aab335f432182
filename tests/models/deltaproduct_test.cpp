#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"
#include "models/register.h"

namespace strata {
namespace deltaproduct_test_detail {

std::unique_ptr<ModelSpec> make(const std::string& family, const std::string& keys) {
  return make_model_from_json(
      cat(R"({"model_type": ")", family, '"', keys.empty() ? "" : ", ", keys, "}"), "config.json");
}
int64_t parameters(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParamMeta& meta : parameter_metas(spec)) total += meta.elements();
  return total;
}

TEST(DeltaProductSpec, ParameterCountsAreThePapers) {
  struct Size {
    int64_t steps, width, heads, ffn, mixer;
    double millions;
  };
  for (const Size& s : {Size{1, 768, 8, 2048, 3164288, 213.80},
                        {2, 736, 6, 2048, 3415808, 214.10},
                        {3, 768, 4, 2048, 3169408, 213.93},
                        {1, 1024, 8, 2816, 4214912, 341.59},
                        {1, 1024, 12, 2816, 6322304, 392.17},
                        {2, 1024, 8, 2816, 6328448, 392.32},
                        {3, 1024, 6, 2816, 6331520, 392.39},
                        {3, 1024, 8, 2816, 8441984, 443.04},
                        {1, 1536, 16, 4096, 12632192, 805.38},
                        {2, 1468, 12, 4096, 13595168, 806.26},
                        {3, 1536, 8, 4096, 12648576, 805.78}}) {
    const auto spec =
        make("gated_deltaproduct",
             cat(R"("num_hidden_layers": 24, "tie_word_embeddings": true, "use_output_gate": false,
          "allow_neg_eigval": true, "expand_v": 1.0, "head_dim": 128, "num_householder": )",
                 s.steps, R"(, "hidden_size": )", s.width, R"(, "num_heads": )", s.heads,
                 R"(, "intermediate_size": )", s.ffn));
    const int64_t norm_and_ffn = 3 * s.width * s.ffn + 2 * s.width;
    EXPECT_EQ(parameters(*spec), 24 * (s.mixer + norm_and_ffn) + s.width + 32000 * s.width);
    EXPECT_NEAR(static_cast<double>(parameters(*spec)) / 1e6, s.millions, 0.005)
        << s.steps << ' ' << s.width;
  }
  // The state-tracking models.
  const auto words = [](int64_t vocabulary, int64_t steps) {
    return make(
        "gated_deltaproduct",
        cat(R"("hidden_size": 128, "head_dim": 32, "num_heads": 8, "num_hidden_layers": 1, "use_short_conv": false,
          "use_output_gate": false, "expand_v": 1.0, "intermediate_size": 512, "vocab_size": )",
            vocabulary, R"(, "num_householder": )", steps));
  };
  EXPECT_EQ(parameters(*words(13, 1)), 332448);
  EXPECT_EQ(parameters(*words(13, 2)), 399008);
  EXPECT_EQ(parameters(*words(127, 4)), 561312);
}

TEST(DeltaProductSpec, EveryFamilyHasItsOwnDefaults) {
  const auto config = [](const std::string& family) {
    return nlohmann::json::parse(make(family, "")->foreign_config());
  };
  const auto product = config("gated_deltaproduct"), plain = config("delta_net"),
             gated = config("gated_deltanet");
  EXPECT_EQ(product["num_householder"], 1);
  EXPECT_EQ(product["use_forget_gate"], false);
  EXPECT_EQ(product["use_output_gate"], true);
  EXPECT_EQ(product["head_dim"], 256);
  EXPECT_EQ(product["num_hidden_layers"], 21);
  EXPECT_EQ(plain["use_gate"], false);
  EXPECT_EQ(plain["num_heads"], 16);
  EXPECT_EQ(plain["expand_v"], 1.0);
  EXPECT_EQ(plain["qk_norm"], "l2");
  EXPECT_FALSE(plain.contains("head_dim"));
  EXPECT_EQ(gated["use_gate"], true);
  EXPECT_EQ(gated["expand_v"], 2.0);
  EXPECT_FALSE(gated.contains("use_forget_gate"));
  for (const char* family : {"gated_deltaproduct", "delta_net", "gated_deltanet"}) {
    EXPECT_EQ(config(family)["intermediate_size"], 5632) << family;
  }
}

TEST(DeltaProductSpec, OneStepWithGatesHasTheTensorsOfGatedDeltaNet) {
  const std::string sizes =
      R"("hidden_size": 64, "num_heads": 2, "head_dim": 16, "num_hidden_layers": 1, "vocab_size": 50)";
  const auto a =
      parameter_metas(*make("gated_deltaproduct", cat(sizes, R"(, "use_forget_gate": true)")));
  const auto b = parameter_metas(*make("gated_deltanet", sizes));
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    EXPECT_EQ(a[i].logical, b[i].logical);
  }
}

TEST(DeltaProductSpec, StepsAreDealtOutByThemselves) {
  const auto spec = make(
      "gated_deltaproduct",
      R"("hidden_size": 64, "num_heads": 4, "head_dim": 8, "num_householder": 3, "num_hidden_layers": 1, "use_forget_gate": true)");
  for (const ParamMeta& meta : parameter_metas(*spec)) {
    if (ends_with(meta.name, "attn.k_proj.weight")) {
      EXPECT_EQ(meta.view, MatrixView::Segments);
      const auto ranges = owned_ranges(meta.shard, meta.logical, 1, 2);
      ASSERT_EQ(ranges.size(), 3U);
      for (int64_t j = 0; j < 3; ++j) {
        EXPECT_EQ(ranges[static_cast<size_t>(j)].begin, j * 32 + 16);
        EXPECT_EQ(ranges[static_cast<size_t>(j)].end, j * 32 + 32);
      }
    }
    if (ends_with(meta.name, "A_log") || ends_with(meta.name, "dt_bias") ||
        ends_with(meta.name, "norm.weight")) {
      EXPECT_FALSE(meta.weight_decay) << meta.name;
      EXPECT_TRUE(meta.fp32) << meta.name;
    }
  }
}

TEST(DeltaProductSpec, ReadsThePapersNames) {
  const auto spec = make(
      "gated_deltaproduct",
      R"("hidden_size": 64, "num_heads": 2, "head_dim": 8, "num_householder": 2, "num_hidden_layers": 1, "use_gate": false)");
  const auto config = nlohmann::json::parse(spec->foreign_config());
  EXPECT_EQ(config["use_output_gate"], false);
  EXPECT_EQ(config["weight_layout"], "lists");
  EXPECT_EQ(spec->foreign("model.layers.0.attn.k_proj.weight").names(),
            (std::vector<std::string>{"model.layers.0.attn.k_projs.0.weight",
                                      "model.layers.0.attn.k_projs.1.weight"}));
  EXPECT_EQ(spec->foreign("model.layers.0.attn.q_conv1d.weight").names(),
            std::vector<std::string>{"model.layers.0.attn.q_conv1ds.0.weight"});
  EXPECT_EQ(spec->foreign("model.layers.0.attn.q_proj.weight").names(),
            std::vector<std::string>{"model.layers.0.attn.q_proj.weight"});
  EXPECT_TRUE(spec->foreign_ignored("model.layers.0.attn.q_conv1ds.1.weight"));
}

TEST(DeltaProductSpec, RefusesWhatIsNotBuilt) {
  for (const auto& [family, keys, word] :
       {std::array<std::string, 3>{"gated_deltaproduct", R"("use_l2warp": true)", "use_l2warp"},
        {"gated_deltaproduct", R"("num_householder": 0)", "num_householder"},
        {"gated_deltaproduct", R"("head_dim": 3, "expand_v": 1.5)", "expand_v"},
        {"delta_net", R"("num_heads": 7)", "expand_k"},
        {"delta_net", R"("qk_norm": "max")", "qk_norm"},
        {"gated_deltanet", R"("num_heads": 4, "num_v_heads": 6)", "num_v_heads"}}) {
    try {
      make(family, keys);
      ADD_FAILURE() << keys;
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  }
}

}  // namespace deltaproduct_test_detail
}  // namespace strata
