#include "core/config/reader.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace config_reader_test {

using Texts = std::vector<std::string>;

struct Aux {
  double lr = 0.01;
  void visit(ConfigVisitor& v) { v.field("lr", lr, positive(), "rate of the other parameters"); }
};

struct Optim {
  std::string name = "adamw";
  double lr = 0.001;
  double clip = 1.0;
  int64_t warmup = 100;
  bool nesterov = true;
  Texts exclude = {"*.bias"};
  std::vector<double> betas = {0.9, 0.95};
  std::optional<int64_t> period;
  std::optional<double> eps;
  void visit(ConfigVisitor& v) {
    v.field("name", name, one_of({"adamw", "muon", "sgd"}), "update rule");
    v.field("lr", lr, positive(), "peak learning rate");
    v.field("clip", clip, non_negative(), "largest gradient norm");
    v.field("warmup", warmup, at_least(0), "steps");
    v.field("nesterov", nesterov, "look ahead");
    v.field("exclude", exclude, any_text(), "names without decay");
    v.field("betas", betas, fraction_below_one(), "moments");
    v.field("period", period, at_least(1), "never", "refresh");
    v.field("eps", eps, positive(), "by rule", "added to the root");
    if (warmup > 1000 && clip == 0) {
      v.problem("warmup", cat(warmup), "integer <= 1000", "(optim.clip = 0)");
    }
  }
};

struct Model {
  int64_t layers = 0;
  bool gate = false;
  std::string name;
  double factor = 1;
  void visit(ConfigVisitor& v) {
    v.required("num_hidden_layers", layers, at_least(1), "depth");
    v.required("use_forget_gate", gate, "gate");
    v.required("name", name, any_text(), "family");
    v.begin_section("rope_scaling", "longer contexts");
    v.field("factor", factor, positive(), "stretch");
    v.end_section();
    v.ignore("use_cache");
    v.ignore("quantization_config");
  }
};

struct Config {
  Optim optim;
  Aux aux;
  Model model;
  void visit(ConfigVisitor& v) {
    visit_section(v, "optim", "optimizer", optim);
    visit_section(v, "optim.aux", "other parameters", aux);
    visit_section(v, "model", "model", model);
  }
};

constexpr const char* kModel = "[model]\nnum_hidden_layers = 2\nuse_forget_gate = no\nname = gla\n";

// All problems of an input; empty when it is accepted.
Texts problems_of(ConfigReader& reader, Config& config) {
  config.visit(reader);
  try {
    reader.finish();
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.problems(), reader.problems());
    EXPECT_EQ(error.what(), join(error.problems(), "\n"));
    return error.problems();
  }
  EXPECT_FALSE(reader.has_problems());
  return {};
}

Texts problems_of(const std::string& ini,
                  const std::vector<std::pair<std::string, std::string>>& overrides = {}) {
  ConfigReader reader;
  reader.add_ini(ini, "run.ini");
  for (const auto& [key, value] : overrides) reader.add_override(key, value);
  Config config;
  return problems_of(reader, config);
}

TEST(ConfigReader, ReadsEveryKind) {
  ConfigReader reader;
  reader.add_ini(
      cat("\xEF\xBB\xBF", kModel, "use_cache = true\n",
          "[optim]\r\nname = muon   # comment\r\nlr = 2e-3\nwarmup = 2k\nnesterov = off\n"
          "exclude = *.bias, \"quoted\"\nbetas = 0.8, 0.99\nperiod = 10\neps = auto\n"
          "[optim.aux]\nlr = 5\n[model.rope_scaling]\nfactor = 4\n"),
      "run.ini");
  Config config;
  config.optim.eps = 1.0;
  EXPECT_EQ(problems_of(reader, config), Texts());
  EXPECT_EQ(config.optim.name, "muon");
  EXPECT_EQ(config.optim.lr, 2e-3);
  EXPECT_EQ(config.optim.clip, 1.0);
  EXPECT_EQ(config.optim.warmup, 2000);
  EXPECT_FALSE(config.optim.nesterov);
  EXPECT_EQ(config.optim.exclude, Texts({"*.bias", "\"quoted\""}));
  EXPECT_EQ(config.optim.betas, std::vector<double>({0.8, 0.99}));
  EXPECT_EQ(config.optim.period, std::optional<int64_t>(10));
  EXPECT_EQ(config.optim.eps, std::nullopt);
  EXPECT_EQ(config.aux.lr, 5);
  EXPECT_EQ(config.model.layers, 2);
  EXPECT_EQ(config.model.factor, 4);
}

TEST(ConfigReader, DottedKeysAreNestedSections) {
  for (const char* text :
       {"[model]\nrope_scaling.factor = 8\n", "[model.rope_scaling]\nfactor = 8\n"}) {
    ConfigReader reader;
    reader.add_ini(cat(kModel, text), "run.ini");
    Config config;
    EXPECT_EQ(problems_of(reader, config), Texts());
    EXPECT_EQ(config.model.factor, 8);
  }
}

TEST(ConfigReader, CommandLineWinsWhateverComesFirst) {
  for (const bool override_first : {true, false}) {
    ConfigReader reader;
    if (override_first) reader.add_override("optim.lr", "0.5");
    reader.add_ini(cat(kModel, "[optim]\nlr = 0.1\n"), "run.ini");
    if (!override_first) reader.add_override("optim.lr", "0.5");
    Config config;
    EXPECT_EQ(problems_of(reader, config), Texts());
    EXPECT_EQ(config.optim.lr, 0.5);
  }
}

TEST(ConfigReader, EmptyListAndEmptyText) {
  ConfigReader reader;
  reader.add_ini(cat(kModel, "[optim]\nexclude =\nbetas = # none\n"), "run.ini");
  Config config;
  EXPECT_EQ(problems_of(reader, config), Texts());
  EXPECT_TRUE(config.optim.exclude.empty());
  EXPECT_TRUE(config.optim.betas.empty());
}

// Each case is one wrong input and the whole list of problems it must give.
TEST(ConfigReader, Messages) {
  struct Case {
    std::string ini;
    Texts problems;
  };
  const std::vector<Case> cases = {
      {"[optim]\nname = mun\n",
       {"run.ini:6: optim.name: got \"mun\", allowed: adamw, muon, sgd. Did you mean \"muon\"?"}},
      {"[optim]\nname = lion\n",
       {"run.ini:6: optim.name: got \"lion\", allowed: adamw, muon, sgd"}},
      {"[optim]\nname =\n", {"run.ini:6: optim.name: got \"\", allowed: adamw, muon, sgd"}},
      {"[optim]\n\nlr = -1\n", {"run.ini:7: optim.lr: got -1, allowed: number > 0"}},
      {"[optim]\nlr = fast\n", {"run.ini:6: optim.lr: got \"fast\", allowed: number > 0"}},
      {"[optim]\nlr = nan\n", {"run.ini:6: optim.lr: got \"nan\", allowed: number > 0"}},
      {"[optim]\nlr = 1e999\n", {"run.ini:6: optim.lr: got \"1e999\", allowed: number > 0"}},
      {"[optim]\nwarmup = 1.5\n", {"run.ini:6: optim.warmup: got 1.5, allowed: integer >= 0"}},
      {"[optim]\nwarmup = 9999999999999G\n",
       {"run.ini:6: optim.warmup: got \"9999999999999G\", allowed: integer >= 0"}},
      {"[optim]\nnesterov = 2\n", {"run.ini:6: optim.nesterov: got 2, allowed: true, false"}},
      {"[optim]\nbetas = 0.9, 1\n",
       {"run.ini:6: optim.betas: got 1 in \"0.9, 1\", allowed: comma-separated list, each: number "
        "in [0, 1)"}},
      {"[optim]\nexclude = a,,b\n",
       {"run.ini:6: optim.exclude: got \"a,,b\", allowed: comma-separated list, each: text"}},
      {"[optim]\nperiod = 0\n", {"run.ini:6: optim.period: got 0, allowed: integer >= 1, auto"}},
      {"[optim]\nlr = 1\nlr = 1\n", {"run.ini:7: optim.lr: given twice, first at run.ini:6"}},
      {"[optim]\nlr = 1\n[optim]\nlr = 1\n",
       {"run.ini:8: optim.lr: given twice, first at run.ini:6"}},
      {"[optim]\nwarmup = 2000\nclip = 0\n",
       {"run.ini:6: optim.warmup: got 2000, allowed: integer <= 1000 (optim.clip = 0)"}},
      {"[optim]\nlrr = 1\n", {"run.ini:6: optim.lrr: unknown key. Did you mean \"optim.lr\"?"}},
      {"[optim]\nLR = 1\n", {"run.ini:6: optim.LR: unknown key. Did you mean \"optim.lr\"?"}},
      {"[optim]\nrope_scaling.factor = 1\n",
       {"run.ini:6: optim.rope_scaling.factor: unknown key. Did you mean "
        "\"model.rope_scaling.factor\"?"}},
      {"[model]\nwarmup = 1\n",
       {"run.ini:6: model.warmup: unknown key. Did you mean \"optim.warmup\"?"}},
      {"[optim.aux]\nzzzzzzzz = 1\n",
       {"run.ini:6: optim.aux.zzzzzzzz: unknown key. Allowed in [optim.aux]: lr"}},
      {"[optm]\nlr = 1\nname = sgd\n",
       {"run.ini:5: [optm]: unknown section. Did you mean \"optim\"?"}},
      {"[zzzzzzzz]\n",
       {"run.ini:5: [zzzzzzzz]: unknown section. Allowed: model, model.rope_scaling, optim, "
        "optim.aux"}},
      {"[model.foo]\nx = 1\n",
       {"run.ini:5: [model.foo]: unknown section. Allowed: model, model.rope_scaling, optim, "
        "optim.aux"}},
      {"[model.quantization_config]\nbits = 8\n", {}},
      {"[model.quantization_config]\n", {}},
      {"[optim\nlr = 1\nfoo = 2\n[model]\nuse_cache = 1\n",
       {"run.ini:5: got \"[optim\", allowed: [section] (the closing bracket is missing)"}},
      {"[optim]\nlr\n", {"run.ini:6: got \"lr\", allowed: key = value, [section], # comment"}},
      {"[optim]\nname = \"sgd\n",
       {"run.ini:6: name: got \"\"sgd\", allowed: a value with a closing quote"}},
      {std::string("[optim]\nlr = 1\0\n", 16),
       {"run.ini:6: got a line with control character 0x00, allowed: UTF-8 text"}},
      {"[optim]\nname = \xff\n",
       {"run.ini:6: got a line with byte 0xff that is not UTF-8, allowed: UTF-8 text"}},
  };
  for (const Case& one : cases) EXPECT_EQ(problems_of(kModel + one.ini), one.problems) << one.ini;
}

TEST(ConfigReader, KeysBeforeAnySection) {
  EXPECT_EQ(
      problems_of(cat("lr = 1\n", kModel)),
      Texts({"run.ini:1: lr: got a key before any section, allowed: keys below a [section] line"}));
}

TEST(ConfigReader, MissingKeysAreReported) {
  EXPECT_EQ(
      problems_of("[model]\nnum_hidden_layers = 1\n"),
      Texts({"model.use_forget_gate: got nothing, allowed: true, false (this key has no default)",
             "model.name: got nothing, allowed: text (this key has no default)"}));
}

TEST(ConfigReader, EveryProblemAtOnce) {
  const Texts problems = problems_of(
      cat(kModel, "[optim]\nlr = 0\nlr = 1\nbroken\nname = x\nwarmpu = 3\n[nonsense]\n"),
      {{"optim.clip", "-2"}, {"optim.zzzzzzzz", "1"}, {"noodle", "1"}});
  EXPECT_EQ(problems.size(), 9u) << join(problems, "\n");
}

TEST(ConfigReader, CommandLineProblemsNameTheOption) {
  EXPECT_EQ(problems_of(kModel, {{"optim.lr", "0"}}),
            Texts({"--optim.lr: got 0, allowed: number > 0"}));
  EXPECT_EQ(problems_of(kModel, {{"optim.lrr", "1"}}),
            Texts({"--optim.lrr: unknown key. Did you mean \"optim.lr\"?"}));
  EXPECT_EQ(problems_of(kModel, {{"optm.lr", "1"}}),
            Texts({"--optm.lr: unknown key. Did you mean \"optim.lr\"?"}));
  EXPECT_EQ(problems_of(kModel, {{"optim.lr", "1"}, {"optim.lr", "2"}}),
            Texts({"--optim.lr: given twice on the command line"}));
  EXPECT_EQ(problems_of(kModel, {{"lr", "1"}}),
            Texts({"command line: \"--lr\": got no section.key, allowed: --section.key=value"}));
  EXPECT_EQ(problems_of(kModel, {{"optim.name", "\x01"}}),
            Texts({"--optim.name: got a value with control character 0x01, allowed: UTF-8 text"}));
  EXPECT_EQ(problems_of(kModel, {{"optim.name", " \"sgd\""}}),
            Texts({"--optim.name: got \" \"sgd\"\", allowed: adamw, muon, sgd"}));
}

TEST(ConfigReader, VisitingTwiceReportsOnce) {
  ConfigReader reader;
  reader.add_ini("[optim]\nlr = 0\nwarmup = 5000\nclip = 0\n", "run.ini");
  Config first, second;
  first.visit(reader);
  const Texts expected = {
      "run.ini:2: optim.lr: got 0, allowed: number > 0",
      "run.ini:3: optim.warmup: got 5000, allowed: integer <= 1000 (optim.clip = 0)",
      "model.num_hidden_layers: got nothing, allowed: integer >= 1 (this key has no default)",
      "model.use_forget_gate: got nothing, allowed: true, false (this key has no default)",
      "model.name: got nothing, allowed: text (this key has no default)"};
  EXPECT_EQ(problems_of(reader, second), expected);
  EXPECT_EQ(second.optim.warmup, 5000);
}

TEST(ConfigReader, PeekMarksAKeyAsUsed) {
  ConfigReader reader;
  reader.add_ini("[sampler]\nkind = top\n", "run.ini");
  ASSERT_NE(reader.peek("sampler.kind"), nullptr);
  EXPECT_EQ(*reader.peek("sampler.kind"), "top");
  EXPECT_EQ(reader.peek("sampler.temperature"), nullptr);
  EXPECT_NO_THROW(reader.finish());
}

TEST(ConfigReader, ProblemsMaySpeakOfOtherSections) {
  ConfigReader reader;
  reader.add_ini(cat(kModel, "[optim]\nlr = 3\n"), "run.ini");
  Config config;
  config.visit(reader);
  reader.begin_section("model", "");
  reader.problem("optim.lr", "3", "number < 2");
  reader.problem("name", "\"gla\"", "llama");
  reader.end_section();
  EXPECT_EQ(reader.problems(), Texts({"run.ini:6: optim.lr: got 3, allowed: number < 2",
                                      "run.ini:4: model.name: got \"gla\", allowed: llama"}));
}

TEST(ConfigReader, AnotherKindOfFileGivesAShortList) {
  const Texts problems = problems_of(std::string(100000, '\n').replace(0, 1, "x") +
                                     std::string(5000, 'y') + "\n" + [] {
                                       std::string text;
                                       for (int i = 0; i < 5000; ++i) text += "garbage\n";
                                       return text;
                                     }());
  EXPECT_LT(problems.size(), 60u);
  EXPECT_NE(join(problems).find("4952 more lines of this kind; is this a run file?"),
            std::string::npos)
      << join(problems, "\n");
}

TEST(ConfigReader, ReadsFilesAndNamesThem) {
  const std::string path = testing::TempDir() + "strata_config_reader_test.ini";
  std::ofstream(path) << kModel << "[optim]\nlr = 0\n";
  ConfigReader reader;
  reader.add_file(path);
  Config config;
  EXPECT_EQ(problems_of(reader, config),
            Texts({cat(path, ":6: optim.lr: got 0, allowed: number > 0")}));
  std::remove(path.c_str());
  EXPECT_THROW(ConfigReader().add_file(path), ConfigError);
  EXPECT_THROW(ConfigReader().add_file(testing::TempDir()), ConfigError);
}

TEST(ConfigReader, TwoFilesMustNotDisagree) {
  ConfigReader reader;
  reader.add_ini(cat(kModel, "[optim]\nlr = 1\n"), "a.ini");
  reader.add_ini("[optim]\nlr = 2\n", "b.ini");
  Config config;
  EXPECT_EQ(problems_of(reader, config),
            Texts({"b.ini:2: optim.lr: given twice, first at a.ini:6"}));
}

TEST(ConfigReader, UnbalancedSectionsAreABug) {
  ConfigReader reader;
  EXPECT_THROW(reader.end_section(), InternalError);
}

TEST(ConfigReader, AForbiddenKeyIsAProblemOnlyWhenGiven) {
  ConfigReader reader;
  reader.add_ini("[plan]\nfile = p\ntp = 2\n", "run.ini");
  reader.add_override("plan.pp", "3");
  reader.begin_section("plan", "");
  std::string file;
  reader.field("file", file, any_text(), "");
  for (const char* key : {"tp", "pp", "zero"}) reader.forbid(key, "nothing while plan.file = p");
  reader.end_section();
  EXPECT_EQ(reader.problems(),
            (Texts{"run.ini:3: plan.tp: got \"2\", allowed: nothing while plan.file = p",
                   "--plan.pp: got \"3\", allowed: nothing while plan.file = p"}));
}

}  // namespace config_reader_test
}  // namespace strata
