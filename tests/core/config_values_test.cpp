#include <gtest/gtest.h>

#include <limits>

#include "core/config/reader.h"

namespace strata {
namespace config_values_test {

TEST(ConfigValues, Integers) {
  const std::vector<std::pair<const char*, int64_t>> good = {
      {"0", 0},
      {"-0", 0},
      {"42", 42},
      {"+42", 42},
      {"-7", -7},
      {" 5 ", 5},
      {"007", 7},
      {"1.0", 1},
      {"2.50e2", 250},
      {"1e6", 1000000},
      {"1E+3", 1000},
      {"120e-1", 12},
      {"4k", 4000},
      {"1.5k", 1500},
      {"3M", 3000000},
      {"2G", 2000000000},
      {"1KiB", 1024},
      {"1.5 KiB", 1536},
      {"64MiB", 64 << 20},
      {"0.5GiB", 1 << 29},
      {"-2k", -2000},
      {"0e99", 0},
      {"9223372036854775807", std::numeric_limits<int64_t>::max()},
      {"-9223372036854775808", std::numeric_limits<int64_t>::min()},
      {"8796093022207.9990234375MiB", 9223372036854774784},
  };
  for (const auto& [text, expected] : good) {
    int64_t value = -99;
    EXPECT_TRUE(parse_integer(text, value)) << text;
    EXPECT_EQ(value, expected) << text;
  }
}

TEST(ConfigValues, TextsThatAreNoIntegers) {
  for (const char* text : {"",
                           " ",
                           "-",
                           "+",
                           "k",
                           "KiB",
                           ".",
                           "1.5",
                           "0.0001k",
                           "abc",
                           "1 2",
                           "1kk",
                           "1K",
                           "1kib",
                           "1m",
                           "--1",
                           "+-1",
                           "1e",
                           "1e+",
                           "1e-",
                           "e5",
                           "1e1000",
                           "1e-1",
                           "0x10",
                           "1_000",
                           "1,000",
                           "9223372036854775808",
                           "-9223372036854775809",
                           "9223372036854775807k",
                           "99999999999G",
                           "8589934592GiB",
                           "316912650057057350374175801344GiB",
                           "nan",
                           "inf",
                           "1..0",
                           "111111111111111111111111111111111111111111111111111111111111"}) {
    int64_t value = -99;
    EXPECT_FALSE(parse_integer(text, value)) << text;
    EXPECT_EQ(value, -99) << text;
  }
}

TEST(ConfigValues, Numbers) {
  const std::vector<std::pair<const char*, double>> good = {
      {"0", 0},    {"-1.5", -1.5}, {"+3", 3},     {"1e-10", 1e-10}, {".5", 0.5},      {"5.", 5},
      {"30s", 30}, {"1.5m", 90},   {"2 h", 7200}, {"1d", 86400},    {" 4e-4 ", 4e-4},
  };
  for (const auto& [text, expected] : good) {
    double value = -99;
    EXPECT_TRUE(parse_number(text, value)) << text;
    EXPECT_EQ(value, expected) << text;
  }
  for (const char* text : {"", "-", "+", "s", "abc", "1x", "1ms", "1 2", "nan", "inf", "-inf",
                           "infinity", "1e999", "1e308d", "+-1", "++1", "0x1p3", "1,5", "4k"}) {
    double value = -99;
    EXPECT_FALSE(parse_number(text, value)) << text;
    EXPECT_EQ(value, -99) << text;
  }
}

TEST(ConfigValues, Booleans) {
  for (const char* text : {"true", "on", "yes", "1", "True", " YES "}) {
    bool value = false;
    EXPECT_TRUE(parse_bool(text, value)) << text;
    EXPECT_TRUE(value) << text;
  }
  for (const char* text : {"false", "off", "no", "0", "FALSE"}) {
    bool value = true;
    EXPECT_TRUE(parse_bool(text, value)) << text;
    EXPECT_FALSE(value) << text;
  }
  for (const char* text : {"", "2", "y", "truee", "auto"}) {
    bool value = true;
    EXPECT_FALSE(parse_bool(text, value)) << text;
    EXPECT_TRUE(value) << text;
  }
}

}  // namespace config_values_test
}  // namespace strata
