// Mutated run files and config.json texts: the readers must end, and ConfigError is the only way
// out.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/config/json_reader.h"
#include "core/config/reader.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"

namespace strata {
namespace config_fuzz_test {

class Dice {
 public:
  explicit Dice(std::string_view name) : rng_(20240501, "data", name) {}
  uint32_t below(size_t n) { return rng_.word(draw_++) % static_cast<uint32_t>(n); }

 private:
  Rng rng_;
  uint64_t draw_ = 0;
};

// Changes, removes, doubles or inserts pieces; `pieces` are fragments that matter to the grammar.
std::string mutated(std::string text, const std::vector<std::string>& pieces, Dice& dice) {
  for (uint32_t n = 1 + dice.below(4); n > 0; --n) {
    const size_t at = text.empty() ? 0 : dice.below(text.size());
    const size_t length = text.empty() ? 0 : std::min<size_t>(text.size() - at, dice.below(12));
    switch (dice.below(5)) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(dice.below(256));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, pieces[dice.below(pieces.size())]);
        break;
      case 3:
        text.insert(at, text.substr(dice.below(text.size() + 1), 40));
        break;
      default:
        text.resize(at);
        break;
    }
  }
  return text;
}

void visit_all(ConfigVisitor& v) {
  bool flag = false;
  int64_t count = 1;
  double rate = 1;
  std::string name = "a";
  std::vector<std::string> names;
  std::vector<double> numbers;
  std::optional<int64_t> maybe;
  std::optional<double> maybe_rate;
  v.field("flag", flag, "");
  v.field("count", count, between(-5, 1000000), "");
  v.field("rate", rate, positive(), "");
  v.field("name", name, one_of({"adamw", "muon"}), "");
  v.field("names", names, any_text(), "");
  v.field("numbers", numbers, any_number(), "");
  v.field("maybe", maybe, at_least(1), "", "");
  v.field("maybe_rate", maybe_rate, any_number(), "", "");
  v.required("needed", count, any_integer(), "");
  v.begin_section("inner", "");
  v.field("rate", rate, any_number(), "");
  v.required("needed", name, any_text(), "");
  v.end_section();
  v.ignore("other");
}

struct Outcome {
  int accepted = 0;
  int refused = 0;
};

TEST(ConfigFuzz, RunFiles) {
  const std::string seed_text =
      "# run\n[optim]\nflag = on\ncount = 4k\nrate = 1.5e-3  ; comment\nname = muon\nnames = a, "
      "\"b\", c\n"
      "numbers = 1, 2.5, -3\nmaybe = auto\nneeded = 7\ninner.rate = 30s\n[optim.inner]\nneeded = "
      "\"x # y\"\n"
      "[optim.other]\nfree = 1\n";
  const std::vector<std::string> pieces = {"[",
                                           "]",
                                           "=",
                                           "\"",
                                           "\\",
                                           "\n",
                                           "\r\n",
                                           "#",
                                           ";",
                                           ".",
                                           ",",
                                           "e999",
                                           "KiB",
                                           "G",
                                           "-",
                                           "[optim]\n",
                                           "count = 9999999999999999999G\n",
                                           std::string(1, '\0'),
                                           "\xff",
                                           "\xef\xbb\xbf",
                                           "auto",
                                           std::string(300, 'z'),
                                           "rate = nan\n"};
  Dice dice("ini");
  Outcome outcome;
  for (int i = 0; i < 6000; ++i) {
    const std::string text = mutated(seed_text, pieces, dice);
    ConfigReader reader;
    try {
      reader.add_ini(text, "fuzz.ini");
      if (dice.below(4) == 0) {
        reader.add_override(mutated("optim.count", pieces, dice), mutated("3", pieces, dice));
      }
      reader.begin_section("optim", "");
      visit_all(reader);
      reader.end_section();
      reader.finish();
      ++outcome.accepted;
    } catch (const ConfigError& error) {
      ++outcome.refused;
      ASSERT_FALSE(error.problems().empty());
      for (const std::string& problem : error.problems()) {
        ASSERT_LT(problem.size(), 1500u) << problem;
      }
    } catch (const std::exception& error) {
      FAIL() << error.what() << "\n" << text;
    }
  }
  // Both ways out are taken: the mutations are neither harmless nor hopeless.
  EXPECT_GT(outcome.accepted, 100);
  EXPECT_GT(outcome.refused, 1000);
}

TEST(ConfigFuzz, Json) {
  const std::string seed_text =
      R"({"flag": true, "count": 12, "rate": 0.5, "name": "muon", "names": ["a", "b"], "numbers": [1, 2.5],
 "maybe": null, "maybe_rate": 3, "needed": 7, "inner": {"rate": 1, "needed": "x"}, "other": {"free": [1, {"a": 2}]}})";
  const std::vector<std::string> pieces = {"{",
                                           "}",
                                           "[",
                                           "]",
                                           ":",
                                           ",",
                                           "\"",
                                           "\\u0000",
                                           "\\ud800",
                                           "null",
                                           "1e999",
                                           "-",
                                           "9223372036854775808",
                                           "true",
                                           std::string(1, '\0'),
                                           "\xff",
                                           std::string(500, '['),
                                           "{\"inner\":",
                                           "3.0"};
  Dice dice("json");
  Outcome outcome;
  for (int i = 0; i < 6000; ++i) {
    const std::string text = mutated(seed_text, pieces, dice);
    try {
      JsonConfigReader reader(text, "fuzz.json");
      visit_all(reader.visitor());
      reader.unused();
      reader.finish();
      ++outcome.accepted;
    } catch (const ConfigError& error) {
      ++outcome.refused;
      ASSERT_FALSE(error.problems().empty());
      for (const std::string& problem : error.problems()) {
        ASSERT_LT(problem.size(), 1500u) << problem;
      }
    } catch (const std::exception& error) {
      FAIL() << error.what() << "\n" << text;
    }
  }
  EXPECT_GT(outcome.accepted, 100);
  EXPECT_GT(outcome.refused, 1000);
}

// Texts without any structure.
TEST(ConfigFuzz, Noise) {
  Dice dice("noise");
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (uint32_t n = dice.below(200); n > 0; --n) text += static_cast<char>(dice.below(256));
    ConfigReader reader;
    reader.add_ini(text, "noise.ini");
    EXPECT_NO_THROW(visit_all(reader));
    EXPECT_THROW(reader.finish(), ConfigError);
    EXPECT_THROW(JsonConfigReader(text, "noise.json"), ConfigError);
  }
}

}  // namespace config_fuzz_test
}  // namespace strata
