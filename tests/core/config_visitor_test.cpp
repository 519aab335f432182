#include "core/config/visitor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace strata {
namespace config_visitor_test {

TEST(Allowed, Integers) {
  EXPECT_EQ(any_integer().text, "integer");
  EXPECT_TRUE(any_integer().accepts(std::numeric_limits<int64_t>::min()));
  EXPECT_EQ(at_least(1).text, "integer >= 1");
  EXPECT_TRUE(at_least(1).accepts(1));
  EXPECT_FALSE(at_least(1).accepts(0));
  EXPECT_EQ(between(1, 20).text, "integer in [1, 20]");
  EXPECT_TRUE(between(1, 20).accepts(1));
  EXPECT_TRUE(between(1, 20).accepts(20));
  EXPECT_FALSE(between(1, 20).accepts(0));
  EXPECT_FALSE(between(1, 20).accepts(21));
}

TEST(Allowed, Numbers) {
  EXPECT_EQ(positive().text, "number > 0");
  EXPECT_TRUE(positive().accepts(1e-300));
  EXPECT_FALSE(positive().accepts(0));
  EXPECT_EQ(non_negative().text, "number >= 0");
  EXPECT_TRUE(non_negative().accepts(0));
  EXPECT_FALSE(non_negative().accepts(-1e-9));
  EXPECT_EQ(number_between(0, 0.5).text, "number in [0, 0.5]");
  EXPECT_TRUE(number_between(0, 0.5).accepts(0.5));
  EXPECT_FALSE(number_between(0, 0.5).accepts(0.51));
  EXPECT_EQ(fraction_below_one().text, "number in [0, 1)");
  EXPECT_TRUE(fraction_below_one().accepts(0));
  EXPECT_FALSE(fraction_below_one().accepts(1));
}

TEST(Allowed, NoRangeHoldsNanOrInfinity) {
  for (const auto& allowed :
       {any_number(), positive(), non_negative(), number_between(-5, 5), fraction_below_one()}) {
    for (const double value : {std::nan(""), double{INFINITY}, -double{INFINITY}}) {
      EXPECT_FALSE(allowed.accepts(value)) << allowed.text << " accepts " << value;
    }
  }
}

TEST(Allowed, Texts) {
  const auto rules = one_of({"adamw", "sgd"});
  EXPECT_EQ(rules.text, "adamw, sgd");
  EXPECT_EQ(rules.choices, std::vector<std::string>({"adamw", "sgd"}));
  EXPECT_TRUE(rules.accepts("sgd"));
  EXPECT_FALSE(rules.accepts("SGD"));
  EXPECT_FALSE(rules.accepts(""));
  EXPECT_TRUE(any_text().accepts(""));
  EXPECT_EQ(path_text().text, "path");
}

}  // namespace config_visitor_test
}  // namespace strata
