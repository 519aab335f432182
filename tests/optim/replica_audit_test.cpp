// Which ranks hold what, and who is named.
#include "optim/replica_audit.h"

#include <gtest/gtest.h>

#include "core/text.h"

namespace strata {
namespace {

using Held = std::vector<ReplicaEntry>;
using Groups = std::vector<std::vector<int>>;

TEST(FindDrift, EqualCopiesAndPiecesHeldOnceAreFine) {
  EXPECT_FALSE(find_drift({}));
  EXPECT_FALSE(find_drift({Held{{"a", 1}, {"b", 2}}, Held{{"b", 2}, {"a", 1}}, Held{{"c", 9}}}));
}

TEST(FindDrift, TwoCopiesCannotTellWhoIsRight) {
  const auto drift = find_drift({Held{{"a", 1}, {"b", 2}}, Held{{"a", 1}, {"b", 3}}});
  ASSERT_TRUE(drift);
  EXPECT_EQ(drift->piece, "b");
  EXPECT_EQ(drift->ranks, (Groups{{0}, {1}}));
  EXPECT_EQ(drift->pieces, 1);
  EXPECT_EQ(drift->text(),
            "Copies of b differ: rank 0 | rank 1. Which of them is right cannot be told. Memory, a "
            "device or a transfer is at fault, or ranks compute differently.");
}

TEST(FindDrift, TheMinorityIsNamed) {
  const auto drift = find_drift({Held{{"x", 5}, {"y", 0}}, Held{{"x", 5}, {"y", 1}},
                                 Held{{"x", 6}, {"y", 2}}, Held{{"x", 5}}});
  ASSERT_TRUE(drift);
  EXPECT_EQ(drift->piece, "x");
  EXPECT_EQ(drift->ranks, (Groups{{0, 1, 3}, {2}}));
  EXPECT_EQ(drift->pieces, 2);
  const std::string text = drift->text();
  EXPECT_EQ(text.find("Copies of x differ: ranks 0, 1, 3 | rank 2. Most copies agree: rank 2 has a "
                      "wrong one. 2 pieces of weights and optimizer state differ in all."),
            0u)
      << text;
}

TEST(FindDrift, HalfIsNoMajority) {
  const auto drift = find_drift({Held{{"x", 5}}, Held{{"x", 6}}, Held{{"x", 6}}, Held{{"x", 5}}});
  EXPECT_EQ(drift->ranks, (Groups{{0, 3}, {1, 2}}));
  EXPECT_NE(drift->text().find("cannot be told"), std::string::npos);
  const auto three = find_drift({Held{{"x", 1}}, Held{{"x", 2}}, Held{{"x", 3}}, Held{{"x", 2}}});
  EXPECT_EQ(three->ranks, (Groups{{1, 3}, {0}, {2}}));
  EXPECT_NE(three->text().find("cannot be told"), std::string::npos);
  const auto five =
      find_drift({Held{{"x", 1}}, Held{{"x", 2}}, Held{{"x", 2}}, Held{{"x", 3}}, Held{{"x", 2}}});
  EXPECT_NE(five->text().find("ranks 0, 3 have wrong ones"), std::string::npos);
}

}  // namespace
}  // namespace strata
