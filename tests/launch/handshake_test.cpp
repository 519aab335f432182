#include "launch/handshake.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/failure.h"
#include "parallel/comm/communicator.h"

namespace strata {
namespace {

TEST(HandshakeTest, NamesTheFirstDifferenceAndTheRanks) {
  const Facts a = {{"version", "1"}, {"optim.lr", "0.1"}, {"train.seed", "1"}};
  Facts b = a;
  EXPECT_EQ(first_difference({a, b, a}), "");
  b[1].second = "0.2";
  b[2].second = "9";
  EXPECT_EQ(first_difference({a, a, b, a}),
            "optim.lr differs between ranks: ranks 0-1, 3 have \"0.1\"; rank 2 has \"0.2\".");
}

TEST(HandshakeTest, WhatOnlySomeHaveIsADifference) {
  const Facts a = {{"x", "1"}}, b = {{"x", "1"}, {"y", "2"}};
  EXPECT_EQ(first_difference({a, b}),
            "y differs between ranks: rank 0 has nothing; rank 1 has \"2\".");
  EXPECT_EQ(first_difference({b, a}),
            "y differs between ranks: rank 0 has \"2\"; rank 1 has nothing.");
}

TEST(HandshakeTest, FactsOfAConfiguration) {
  const Facts facts = config_facts("[train]\nsteps = 5\n\n[sample]\nprompt = \"a = b\"\nempty =\n");
  const Facts expected = {
      {"train.steps", "5"}, {"sample.prompt", "\"a = b\""}, {"sample.empty", ""}};
  EXPECT_EQ(facts, expected);
}

TEST(FailureTest, CodesOfExceptions) {
  const auto code = [](auto error) { return describe(std::make_exception_ptr(error)).code; };
  EXPECT_EQ(code(ConfigError("a", "b", "c")), 2);
  EXPECT_EQ(code(DataError("x")), 3);
  EXPECT_EQ(code(StorageError("x")), 9);
  EXPECT_EQ(code(std::bad_alloc()), 5);
  EXPECT_EQ(code(std::runtime_error("x")), 1);
}

TEST(FailureTest, TogetherTurnsAnyFailureIntoAnAgreedOne) {
  const auto self = make_self_communicator();
  EXPECT_NO_THROW(together(*self, [] {}));
  try {
    together(*self, [] { throw DataError("no such file"); });
    FAIL();
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.exit_code(), 3);
    EXPECT_STREQ(error.what(), "no such file");
  }
}

}  // namespace
}  // namespace strata
