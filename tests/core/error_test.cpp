#include "core/error.h"

#include <gtest/gtest.h>

#include "core/registry.h"
#include "core/text.h"

namespace strata {
namespace error_test {

TEST(Error, ProblemTextIsOneSentencePerThought) {
  EXPECT_EQ(problem_text("optim.muon.ns_steps", "0", "integer in [1, 20]"),
            "optim.muon.ns_steps: got 0, allowed: integer in [1, 20]");
  EXPECT_EQ(
      problem_text("optim.name", "\"mun\"", "muon, sgd", did_you_mean("mun", {"muon", "sgd"})),
      "optim.name: got \"mun\", allowed: muon, sgd. Did you mean \"muon\"?");
  EXPECT_EQ(problem_text("plan.layers[7].tp", "8", "1, 2, 4", "(4 heads)"),
            "plan.layers[7].tp: got 8, allowed: 1, 2, 4 (4 heads)");
  EXPECT_EQ(problem_text("plan.layers[7].tp", "8", "1, 2, 4", " (4 heads)"),
            "plan.layers[7].tp: got 8, allowed: 1, 2, 4 (4 heads)");
  EXPECT_EQ(problem_text("a", "b", "c", "; d"), "a: got b, allowed: c; d");
}

TEST(Error, ConfigErrorListsEveryProblem) {
  const ConfigError one("data.seed", "-1", "integer >= 0");
  EXPECT_STREQ(one.what(), "data.seed: got -1, allowed: integer >= 0");
  EXPECT_EQ(one.problems().size(), 1u);
  const ConfigError two(std::vector<std::string>{"first", "second"});
  EXPECT_STREQ(two.what(), "first\nsecond");
  EXPECT_EQ(two.problems(), std::vector<std::string>({"first", "second"}));
  EXPECT_STRNE(ConfigError(std::vector<std::string>{}).what(), "");
}

TEST(Error, ExitCodes) {
  EXPECT_EQ(InternalError("x").exit_code(), 1);
  EXPECT_EQ(ConfigError("k", "g", "a").exit_code(), 2);
  EXPECT_EQ(DataError("x").exit_code(), 3);
  EXPECT_EQ(CheckpointError("x").exit_code(), 4);
  EXPECT_EQ(OutOfMemoryError("x").exit_code(), 5);
  EXPECT_EQ(NumericError("x").exit_code(), 6);
  EXPECT_EQ(CommError("x").exit_code(), 7);
  EXPECT_EQ(DesyncError("x").exit_code(), 8);
  EXPECT_EQ(StorageError("x").exit_code(), 9);
}

TEST(Error, CheckNamesConditionPlaceAndMessage) {
  EXPECT_NO_THROW(STRATA_CHECK(1 + 1 == 2, "arithmetic"));
  const int line = __LINE__ + 2;
  try {
    STRATA_CHECK(1 + 1 == 3, cat("sum of ", 2));
    FAIL() << "STRATA_CHECK let a false condition pass";
  } catch (const InternalError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("sum of 2"), std::string::npos) << text;
    EXPECT_NE(text.find("1 + 1 == 3"), std::string::npos) << text;
    EXPECT_NE(text.find(cat("error_test.cpp:", line)), std::string::npos) << text;
  }
}

struct Shape {
  virtual ~Shape() = default;
  virtual int sides() const = 0;
};
struct Polygon final : Shape {
  explicit Polygon(int n) : n(n) {}
  int sides() const override { return n; }
  int n;
};

TEST(Registry, MakesByNameAndSuggests) {
  Registry<Shape, int> registry("shape.name");
  registry.add("polygon", [](int n) { return std::make_unique<Polygon>(n); });
  registry.add("double", [](int n) { return std::make_unique<Polygon>(2 * n); });
  EXPECT_TRUE(registry.contains("polygon"));
  EXPECT_FALSE(registry.contains("Polygon"));
  EXPECT_EQ(registry.names(), std::vector<std::string>({"double", "polygon"}));
  EXPECT_EQ(registry.make("double", 3)->sides(), 6);
  try {
    registry.make("poligon", 3);
    FAIL() << "an unknown name was accepted";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(
        error.what(),
        "shape.name: got \"poligon\", allowed: double, polygon. Did you mean \"polygon\"?");
  }
  EXPECT_THROW(registry.add("double", [](int n) { return std::make_unique<Polygon>(n); }),
               InternalError);
}

}  // namespace error_test
}  // namespace strata
