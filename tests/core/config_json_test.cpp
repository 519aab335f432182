#include "core/config/json_reader.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace config_json_test {

using Texts = std::vector<std::string>;

struct Model {
  int64_t hidden = 64;
  int64_t layers = 0;
  double eps = 1e-6;
  bool tie = false;
  std::string act = "silu";
  Texts kinds = {"default"};
  std::vector<double> betas;
  std::optional<int64_t> heads = 7;
  std::optional<double> theta;
  double factor = 1;
  std::string kind;
  void visit(ConfigVisitor& v) {
    v.field("hidden_size", hidden, at_least(1), "");
    v.required("num_hidden_layers", layers, at_least(1), "");
    v.field("norm_eps", eps, positive(), "");
    v.field("tie", tie, "");
    v.field("hidden_act", act, one_of({"silu", "gelu"}), "");
    v.field("layer_types", kinds, one_of({"full", "linear", "default"}), "");
    v.field("betas", betas, fraction_below_one(), "");
    v.field("heads", heads, at_least(1), "= num_heads", "");
    v.field("theta", theta, positive(), "none", "");
    v.begin_section("rope_scaling", "");
    v.field("factor", factor, positive(), "");
    v.field("type", kind, any_text(), "");
    v.end_section();
    v.ignore("use_cache");
    if (hidden % 2 != 0) v.problem("hidden_size", cat(hidden), "even integer");
  }
};

Texts problems_of(const std::string& json, Model& model, int visits = 1) {
  try {
    JsonConfigReader reader(json, "config.json");
    for (int i = 0; i < visits; ++i) model.visit(reader.visitor());
    reader.finish();
  } catch (const ConfigError& error) {
    return error.problems();
  }
  return {};
}

Texts problems_of(const std::string& json) {
  Model model;
  return problems_of(json, model);
}

TEST(JsonConfig, ReadsEveryKind) {
  Model model;
  EXPECT_EQ(
      problems_of(R"({"hidden_size": 128, "num_hidden_layers": 4.0, "norm_eps": 1e-5, "tie": true,
      "hidden_act": "gelu", "layer_types": ["full", "linear"], "betas": [0, 0.5], "heads": 8, "theta": 10000,
      "rope_scaling": {"factor": 2, "type": "yarn"}})",
                  model),
      Texts());
  EXPECT_EQ(model.hidden, 128);
  EXPECT_EQ(model.layers, 4);
  EXPECT_EQ(model.eps, 1e-5);
  EXPECT_TRUE(model.tie);
  EXPECT_EQ(model.act, "gelu");
  EXPECT_EQ(model.kinds, Texts({"full", "linear"}));
  EXPECT_EQ(model.betas, std::vector<double>({0, 0.5}));
  EXPECT_EQ(model.heads, std::optional<int64_t>(8));
  EXPECT_EQ(model.theta, std::optional<double>(10000));
  EXPECT_EQ(model.factor, 2);
  EXPECT_EQ(model.kind, "yarn");
}

TEST(JsonConfig, NullAndAbsentKeepDefaults) {
  Model model;
  EXPECT_EQ(
      problems_of(
          R"({"num_hidden_layers": 1, "hidden_size": null, "hidden_act": null, "layer_types": null,
      "heads": null, "rope_scaling": null})",
          model),
      Texts());
  EXPECT_EQ(model.hidden, 64);
  EXPECT_EQ(model.act, "silu");
  EXPECT_EQ(model.kinds, Texts({"default"}));
  EXPECT_EQ(model.heads, std::optional<int64_t>(7));
  EXPECT_EQ(model.factor, 1);
}

TEST(JsonConfig, WrongTypesNameKeyAndFile) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"("hidden_size": "64")", "config.json: hidden_size: got \"64\", allowed: integer >= 1"},
      {R"("hidden_size": 0)", "config.json: hidden_size: got 0, allowed: integer >= 1"},
      {R"("hidden_size": 64.5)", "config.json: hidden_size: got 64.5, allowed: integer >= 1"},
      {R"("hidden_size": true)", "config.json: hidden_size: got true, allowed: integer >= 1"},
      {R"("hidden_size": 18446744073709551615)",
       "config.json: hidden_size: got 18446744073709551615, allowed: integer >= 1"},
      {R"("hidden_size": 1e300)", "config.json: hidden_size: got 1e+300, allowed: integer >= 1"},
      {R"("hidden_size": [64])", "config.json: hidden_size: got a list, allowed: integer >= 1"},
      {R"("hidden_size": {})", "config.json: hidden_size: got an object, allowed: integer >= 1"},
      {R"("norm_eps": "1e-5")", "config.json: norm_eps: got \"1e-5\", allowed: number > 0"},
      {R"("norm_eps": -1)", "config.json: norm_eps: got -1, allowed: number > 0"},
      {R"("tie": 1)", "config.json: tie: got 1, allowed: true, false"},
      {R"("hidden_act": "glu")",
       "config.json: hidden_act: got \"glu\", allowed: silu, gelu. Did you mean \"gelu\"?"},
      {R"("hidden_act": 3)", "config.json: hidden_act: got 3, allowed: silu, gelu"},
      {R"("layer_types": "full")",
       "config.json: layer_types: got \"full\", allowed: list, each: full, linear, default"},
      {R"("layer_types": ["full", 3])",
       "config.json: layer_types: got a list, allowed: list, each: full, linear, default"},
      {R"("betas": [1])", "config.json: betas: got a list, allowed: list, each: number in [0, 1)"},
      {R"("heads": 0)", "config.json: heads: got 0, allowed: integer >= 1"},
      {R"("rope_scaling": 3)", "config.json: rope_scaling: got 3, allowed: an object"},
      {R"("rope_scaling": {"factor": 0})",
       "config.json: rope_scaling.factor: got 0, allowed: number > 0"},
      {R"("hidden_size": 3)", "config.json: hidden_size: got 3, allowed: even integer"},
  };
  for (const auto& [member, expected] : cases) {
    Model model;
    // Twice: a section that is visited again reports nothing twice.
    EXPECT_EQ(problems_of(cat("{\"num_hidden_layers\": 1, ", member, "}"), model, 2),
              Texts({expected}))
        << member;
    EXPECT_EQ(model.heads, std::optional<int64_t>(7)) << "a bad value must not replace the default";
  }
}

TEST(JsonConfig, RequiredKeys) {
  const Texts missing = {
      "config.json: num_hidden_layers: got nothing, allowed: integer >= 1 (this key has no "
      "default)"};
  EXPECT_EQ(problems_of("{}"), missing);
  EXPECT_EQ(problems_of(R"({"num_hidden_layers": null})"), missing);
  EXPECT_EQ(problems_of(R"({"num_hidden_layers": -1})"),
            Texts({"config.json: num_hidden_layers: got -1, allowed: integer >= 1"}));
}

TEST(JsonConfig, AllProblemsAtOnce) {
  EXPECT_EQ(problems_of(
                R"({"hidden_size": "x", "norm_eps": 0, "tie": "no", "rope_scaling": {"type": 1}})")
                .size(),
            5u);
}

TEST(JsonConfig, NotAnObject) {
  EXPECT_EQ(problems_of("[1]"), Texts({"config.json: got a list, allowed: a JSON object"}));
  EXPECT_EQ(problems_of("3"), Texts({"config.json: got 3, allowed: a JSON object"}));
  EXPECT_EQ(problems_of("{\n  \"a\": 1,\n  \"b\": }\n"),
            Texts({"config.json:3, column 8: got text that is no JSON, allowed: a JSON object"}));
  EXPECT_EQ(problems_of(""),
            Texts({"config.json:1, column 1: got text that is no JSON, allowed: a JSON object"}));
  EXPECT_EQ(problems_of("{\"a\": NaN}").size(), 1u);
  EXPECT_EQ(problems_of("{\"a\": 1e999}"),
            Texts({"config.json: got a number that no double can hold, allowed: a JSON object"}));
  EXPECT_EQ(problems_of("{\"a\": \"\xff\"}").size(), 1u);
}

TEST(JsonConfig, UnusedKeys) {
  JsonConfigReader reader(
      R"({"num_hidden_layers": 1, "use_cache": true, "transformers_version": "4",
      "rope_scaling": {"factor": 2, "beta": 3}, "extra": {"a": 1}})",
      "config.json");
  Model model;
  model.visit(reader.visitor());
  EXPECT_EQ(reader.unused(), Texts({"extra", "rope_scaling.beta", "transformers_version"}));
}

TEST(JsonConfig, DottedNamesDescend) {
  JsonConfigReader reader(R"({"optim": {"aux": {"lr": 3}, "x.y": 4}})", "run.json");
  double lr = 0, xy = 0;
  reader.visitor().begin_section("optim.aux", "");
  reader.visitor().field("lr", lr, positive(), "");
  reader.visitor().end_section();
  reader.visitor().field("optim.x.y", xy, positive(), "");
  reader.visitor().begin_section("optim", "");
  reader.visitor().field("x.y", xy, positive(), "");
  reader.visitor().end_section();
  EXPECT_EQ(lr, 3);
  EXPECT_EQ(xy, 4);
  EXPECT_EQ(reader.unused(), Texts());
  EXPECT_THROW(reader.visitor().end_section(), InternalError);
}

TEST(JsonConfig, IntegersOutsideInt64AreRefused) {
  for (const char* number : {"9223372036854775808.0", "1e30", "-1e19", "9223372036854775808"}) {
    JsonConfigReader reader(cat("{\"n\": ", number, "}"), "config.json");
    int64_t value = 5;
    reader.visitor().field("n", value, any_integer(), "");
    EXPECT_THROW(reader.finish(), ConfigError) << number;
    EXPECT_EQ(value, 5) << number;
  }
  JsonConfigReader reader("{\"n\": -9223372036854775808.0}", "config.json");
  int64_t value = 5;
  reader.visitor().field("n", value, any_integer(), "");
  EXPECT_NO_THROW(reader.finish());
  EXPECT_EQ(value, INT64_MIN);
}

TEST(JsonConfig, DeepNestingIsNoCrash) {
  const int depth = 100000;
  EXPECT_EQ(problems_of(cat("{\"hidden_size\": ", std::string(depth, '['), std::string(depth, ']'),
                            ", \"num_hidden_layers\": 1}")),
            Texts({"config.json: hidden_size: got a list, allowed: integer >= 1"}));
}

}  // namespace config_json_test
}  // namespace strata
