#include "launch/command_line.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace strata {
namespace {

CommandLine line() {
  CommandLine out("demo", "FILE [--out F]", "Shows.");
  out.positional("FILE", 1, 1);
  out.option("out", "F", "where");
  out.flag("json", "as JSON");
  out.short_for("plan", "FILE", "plan.file", "plan file");
  return out;
}

std::string problem_of(const std::vector<std::string>& arguments) {
  CommandLine l = line();
  try {
    l.parse(arguments);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(CommandLineTest, SeparatesOverridesFromOptions) {
  CommandLine l = line();
  ASSERT_TRUE(l.parse({"run.ini", "--optim.lr=1e-3", "--out", "x.y", "--plan.tp", "2", "--json",
                       "--sample.prompt=--a=b"}));
  EXPECT_EQ(l.words(), (std::vector<std::string>{"run.ini"}));
  EXPECT_EQ(l.value("out"), "x.y");
  EXPECT_TRUE(l.has("json"));
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"optim.lr", "1e-3"}, {"plan.tp", "2"}, {"sample.prompt", "--a=b"}};
  EXPECT_EQ(l.overrides(), expected);
}

TEST(CommandLineTest, AnOptionCanBeShortForAKey) {
  CommandLine l = line();
  ASSERT_TRUE(l.parse({"run.ini", "--optim.lr=1", "--plan", "a/p.json"}));
  const std::vector<std::pair<std::string, std::string>> expected = {{"optim.lr", "1"},
                                                                     {"plan.file", "a/p.json"}};
  EXPECT_EQ(l.overrides(), expected);
  CommandLine other = line();
  ASSERT_TRUE(other.parse({"run.ini", "--plan=p.json"}));
  EXPECT_EQ(other.overrides().at(0).second, "p.json");
}

TEST(CommandLineTest, AnOptionWhoseValueHasADotIsNoOverride) {
  CommandLine l = line();
  ASSERT_TRUE(l.parse({"a", "--out=b.c"}));
  EXPECT_TRUE(l.overrides().empty());
  EXPECT_EQ(l.value("out"), "b.c");
}

TEST(CommandLineTest, WrongWordsAreExplained) {
  EXPECT_NE(problem_of({"a", "--jsn"}).find("Did you mean \"--json\""), std::string::npos);
  EXPECT_NE(problem_of({"a", "--js"}).find("--js"), std::string::npos)
      << "prefixes are not guessed";
  EXPECT_NE(problem_of({}).find("no FILE"), std::string::npos);
  EXPECT_NE(problem_of({"a", "b"}).find("\"b\""), std::string::npos);
  EXPECT_NE(problem_of({"a", "--out"}).find("out"), std::string::npos);
  EXPECT_NE(problem_of({"a", "--optim.lr"}).find("no value"), std::string::npos);
}

}  // namespace
}  // namespace strata
