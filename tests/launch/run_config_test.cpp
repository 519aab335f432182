#include "launch/run_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace {

using launch_test::TempFolder;
using launch_test::tiny_run;

std::string problems_of(const Overrides& overrides) {
  try {
    read_run_config({"", overrides, RunInput::Data::ForVocabulary});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(RunConfigTest, EffectiveConfigurationReadsBackEqual) {
  const TempFolder folder;
  const RunConfig first = read_run_config(
      {"", tiny_run(folder, {{"optim.beta2", "0.97"}, {"sample.prompt", " a;#\"b\\ "}})});
  io::write_text_atomic(folder / "config.ini", first.ini);
  const RunConfig second = read_run_config({(folder / "config.ini").string(), {}});
  EXPECT_EQ(first.ini, second.ini);
  EXPECT_EQ(second.sample.prompt, " a;#\"b\\ ");
  EXPECT_EQ(second.train.batch, 4);
  EXPECT_EQ(second.model->layer_count(), 4);
  EXPECT_NE(first.ini.find("beta2 = 0.97"), std::string::npos) << first.ini;
}

TEST(RunConfigTest, CommandLineWinsOverTheFile) {
  const TempFolder folder;
  io::write_text_atomic(folder / "run.ini",
                        "[train]\nsteps = 5\nbatch = 2\n[model]\nvocab_size = 300\n");
  const RunConfig config = read_run_config(
      {(folder / "run.ini").string(), {{"train.steps", "7"}}, RunInput::Data::ForVocabulary});
  EXPECT_EQ(config.train.steps, 7);
  EXPECT_EQ(config.train.batch, 2);
}

TEST(RunConfigTest, VocabularyComesFromTheData) {
  const TempFolder folder;
  const RunConfig config = read_run_config({"", tiny_run(folder)});
  EXPECT_EQ(config.model->vocabulary(), 256);
  ASSERT_NE(config.train_data, nullptr);
  EXPECT_EQ(config.train_data->vocab_size(), 256);
  const RunConfig chars = read_run_config({"", tiny_run(folder, {{"data.tokenizer", "chars"}})});
  EXPECT_EQ(chars.model->vocabulary(), chars.train_data->vocab_size());
  EXPECT_LT(chars.model->vocabulary(), 64);
}

TEST(RunConfigTest, TooSmallVocabularyIsRefused) {
  const TempFolder folder;
  try {
    read_run_config(
        {"", tiny_run(folder, {{"data.tokenizer", "chars"}, {"model.vocab_size", "5"}})});
    FAIL() << "5 ids cannot hold the characters of the text";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("model.vocab_size"), std::string::npos)
        << error.what();
  }
}

TEST(RunConfigTest, EveryProblemIsReportedAtOnce) {
  const std::string text = problems_of({{"train.dtype", "fp16"},
                                        {"optim.name", "adamv"},
                                        {"plan.tp", "0"},
                                        {"model.vocab_size", "x"},
                                        {"sched.nam", "cosine"},
                                        {"nosection.key", "1"}});
  for (const char* part : {"train.dtype", "optim.name", "Did you mean \"adamw\"", "plan.tp",
                           "model.vocab_size", "sched.nam", "sched.name", "nosection.key"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in:\n" << text;
  }
}

TEST(RunConfigTest, DataProblemsComeAfterConfigurationProblems) {
  const TempFolder folder;
  const Overrides missing = tiny_run(folder, {{"data.path", (folder / "none.txt").string()}});
  EXPECT_THROW(read_run_config({"", missing}), DataError);
  Overrides both = missing;
  both.emplace_back("eval.interval", "-1");
  EXPECT_THROW(read_run_config({"", both}), ConfigError);
}

TEST(RunConfigTest, ContradictionsBetweenSections) {
  const Overrides base = {{"model.vocab_size", "256"}};
  const auto with = [&](const std::string& key, const std::string& value) {
    Overrides out = base;
    out.emplace_back(key, value);
    return problems_of(out);
  };
  EXPECT_EQ(problems_of(base), "");
  EXPECT_NE(with("plan.microbatches", "3").find("train.batch"), std::string::npos);
  EXPECT_NE(with("data.sequence_length", "100k").find("longest context"), std::string::npos);
  EXPECT_NE(with("sched.warmup", "2k").find("train.steps"), std::string::npos);
  EXPECT_EQ(with("runtime.deterministic", "invariant"), "");
  EXPECT_NE(with("ckpt.load", "weights-only").find("never implicit"), std::string::npos);
}

TEST(RunConfigTest, RulesAreReadFromTheEffectiveConfiguration) {
  const TempFolder folder;
  const RunConfig config = read_run_config(
      {"", tiny_run(folder, {{"optim.name", "adamw"}, {"optim.weight_decay", "0.25"}})});
  const auto rules = make_rules(config);
  ASSERT_EQ(rules->size(), 1u);
  EXPECT_EQ(rules->rule(0).name(), "adamw");
  EXPECT_EQ(rules->rule(0).weight_decay(), 0.25);
}

TEST(RunConfigTest, JsonSchemaHasEveryFamilyAndRule) {
  const auto json = nlohmann::json::parse(config_json());
  EXPECT_EQ(json["settings"]["train.batch"]["default"], 8);
  for (const std::string& name : model_registry().names())
    EXPECT_TRUE(json["model"][name].contains("model.vocab_size"));
  for (const std::string& name : rule_registry().names()) EXPECT_TRUE(json["optim"].contains(name));
}

}  // namespace
}  // namespace strata
