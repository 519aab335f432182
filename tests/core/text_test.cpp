#include "core/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/rng.h"

namespace strata {
namespace text_test {

using Texts = std::vector<std::string>;

TEST(Text, CatStreamsEverything) {
  EXPECT_EQ(cat("rank ", 3, " of ", 4, ' ', 0.5), "rank 3 of 4 0.5");
}

TEST(Text, JoinAndSplitAreInverse) {
  EXPECT_EQ(join({}), "");
  EXPECT_EQ(join({"a"}), "a");
  EXPECT_EQ(join({"a", "", "c"}, "|"), "a||c");
  EXPECT_EQ(split("", ','), Texts({""}));
  EXPECT_EQ(split("a,,c,", ','), Texts({"a", "", "c", ""}));
  for (const char* text : {"", ",", "a", "a,b", ",a,,b,"}) {
    EXPECT_EQ(join(split(text, ','), ","), text);
  }
}

TEST(Text, Trim) {
  EXPECT_EQ(trim(""), "");
  EXPECT_EQ(trim(" \t\r\n "), "");
  EXPECT_EQ(trim("\t a b \n"), "a b");
}

TEST(Text, PrefixAndSuffix) {
  EXPECT_TRUE(starts_with("optim.lr", "optim"));
  EXPECT_TRUE(starts_with("x", ""));
  EXPECT_FALSE(starts_with("op", "optim"));
  EXPECT_TRUE(ends_with("a.cpp", ".cpp"));
  EXPECT_FALSE(ends_with("cpp", ".cpp"));
}

TEST(Text, GlobMatchesWholeNames) {
  EXPECT_TRUE(glob_match("", ""));
  EXPECT_FALSE(glob_match("", "a"));
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("*.weight", "model.layers.0.weight"));
  EXPECT_FALSE(glob_match("*.weight", "model.weight.scale"));
  EXPECT_TRUE(glob_match("model.layers.?.*", "model.layers.3.mlp.up_proj.weight"));
  EXPECT_FALSE(glob_match("model.layers.?.*", "model.layers.13.mlp"));
  EXPECT_FALSE(glob_match("weight", "weights"));
  EXPECT_TRUE(glob_match("a*b*c", "a-b-b-c"));
  EXPECT_FALSE(glob_match("a*b*c", "a-b-b-"));
  EXPECT_TRUE(glob_match("**a**", "a"));
  EXPECT_FALSE(glob_match("?", ""));
}

// The definition by recursion, exponential but obviously right.
bool glob_by_definition(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') {
    return glob_by_definition(pattern.substr(1), text) ||
           (!text.empty() && glob_by_definition(pattern, text.substr(1)));
  }
  return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) &&
         glob_by_definition(pattern.substr(1), text.substr(1));
}

TEST(Text, GlobEqualsItsDefinition) {
  const Rng rng(7, "data", "glob");
  uint64_t draw = 0;
  int matches = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string pattern, text;
    for (uint32_t n = rng.word(draw++) % 7; n > 0; --n) pattern += "ab*?*"[rng.word(draw++) % 5];
    for (uint32_t n = rng.word(draw++) % 7; n > 0; --n) text += "ab"[rng.word(draw++) % 2];
    const bool expected = glob_by_definition(pattern, text);
    matches += expected;
    ASSERT_EQ(glob_match(pattern, text), expected) << pattern << " against " << text;
  }
  EXPECT_GT(matches, 2000);
  EXPECT_LT(matches, 18000);
}

TEST(Text, GlobOfManyStarsIsNotExponential) {
  std::string pattern, text(2000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "*a";
  EXPECT_TRUE(glob_match(pattern, text));
  EXPECT_FALSE(glob_match(pattern + "b", text));
}

TEST(Text, NearestFindsTypingMistakes) {
  const Texts rules = {"adamw", "galore", "muon", "sgd", "soap"};
  EXPECT_EQ(nearest("mun", rules), "muon");
  EXPECT_EQ(nearest("muno", rules), "muon");
  EXPECT_EQ(nearest("AdamW", rules), "adamw");
  EXPECT_EQ(nearest("adam", rules), "adamw");
  EXPECT_EQ(nearest("sdg", rules), "sgd");
  EXPECT_EQ(nearest("hidden-size", {"hidden_size", "head_size"}), "hidden_size");
  EXPECT_EQ(nearest("num_hiden_layer", {"num_hidden_layers", "num_heads"}), "num_hidden_layers");
}

TEST(Text, NearestIsSilentWhenNothingIsNear) {
  EXPECT_EQ(nearest("lion", {"adamw", "sgd"}), "");
  EXPECT_EQ(nearest("", {"a"}), "");
  EXPECT_EQ(nearest("x", {"y", "z"}), "");
  EXPECT_EQ(nearest("warmup", {}), "");
  EXPECT_EQ(nearest(std::string(100000, 'a'), {std::string(100000, 'a')}), "");
}

TEST(Text, DidYouMean) {
  EXPECT_EQ(did_you_mean("mun", {"muon"}), " Did you mean \"muon\"?");
  EXPECT_EQ(did_you_mean("lion", {"muon", "sgd", "adamw"}), "");
}

TEST(Text, Bytes) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1 KiB");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(1024.0 * 1024 - 1), "1 MiB");  // never "1024 KiB"
  EXPECT_EQ(bytes_text(2.25 * (1 << 30)), "2.2 GiB");
  EXPECT_EQ(bytes_text(-1536), "-1.5 KiB");
  EXPECT_EQ(bytes_text(std::nan("")), "nan B");
}

TEST(Text, Durations) {
  EXPECT_EQ(duration_text(0), "0s");
  EXPECT_EQ(duration_text(12.5e-6), "12.5us");
  EXPECT_EQ(duration_text(0.042), "42ms");
  EXPECT_EQ(duration_text(2.5), "2.5s");
  EXPECT_EQ(duration_text(59.97), "1m00s");
  EXPECT_EQ(duration_text(95.2), "1m35s");
  EXPECT_EQ(duration_text(3661), "1h01m");
  EXPECT_EQ(duration_text(200000), "2d07h");
  EXPECT_EQ(duration_text(-95.2), "-1m35s");
  EXPECT_EQ(duration_text(INFINITY), "infs");
}

TEST(Text, NumbersAreShort) {
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(0.1), "0.1");
  EXPECT_EQ(number_text(300), "300");
  EXPECT_EQ(number_text(100000), "100000");
  EXPECT_EQ(number_text(3e-4), "0.0003");
  EXPECT_EQ(number_text(1e-10), "1e-10");
  EXPECT_EQ(number_text(1e9), "1e+09");
  EXPECT_EQ(number_text(1234567), "1234567");
  EXPECT_EQ(number_text(-2.5), "-2.5");
  EXPECT_EQ(number_text(std::nan("")), "nan");
  EXPECT_EQ(number_text(-INFINITY), "-inf");
}

TEST(Text, NumbersReadBackEqual) {
  const Rng rng(7, "data", "numbers");
  for (uint64_t i = 0; i < 20000; ++i) {
    const double exponent = rng.uniform(2 * i) * 600 - 300;
    const double value = (rng.uniform(2 * i + 1) - 0.5) * std::pow(10.0, exponent);
    ASSERT_EQ(std::strtod(number_text(value).c_str(), nullptr), value) << number_text(value);
  }
  for (const double value : {std::numeric_limits<double>::max(), std::numeric_limits<double>::min(),
                             std::numeric_limits<double>::denorm_min(), -0.0}) {
    EXPECT_EQ(std::strtod(number_text(value).c_str(), nullptr), value);
  }
}

}  // namespace text_test
}  // namespace strata
