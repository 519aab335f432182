#include "core/config/writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"

namespace strata {
namespace config_writer_test {

struct Everything {
  bool flag = false;
  int64_t count = 0;
  double rate = 0;
  std::string text;
  std::vector<std::string> names;
  std::vector<double> numbers;
  std::optional<int64_t> maybe_count;
  std::optional<double> maybe_rate;
  int64_t needed_count = 0;
  bool needed_flag = false;
  std::string needed_text;
  double factor = 1;
  bool operator==(const Everything&) const = default;

  void visit(ConfigVisitor& v) {
    v.field("flag", flag, "a switch");
    v.field("count", count, any_integer(), "a count");
    v.field("rate", rate, any_number(), "a rate | with a bar");
    v.field("text", text, any_text(), "a text");
    v.field("names", names, any_text(), "names");
    v.field("numbers", numbers, any_number(), "numbers");
    v.field("maybe_count", maybe_count, at_least(-1000000), "= count", "an optional count");
    v.field("maybe_rate", maybe_rate, any_number(), "", "an optional rate");
    v.required("needed_count", needed_count, any_integer(), "no default");
    v.required("needed_flag", needed_flag, "no default");
    v.required("needed_text", needed_text, any_text(), "no default");
    v.begin_section("scaling", "a group");
    v.field("factor", factor, any_number(), "stretch");
    v.end_section();
  }
};

std::string written(Everything& config, ConfigFormat format) {
  ConfigWriter writer(format);
  visit_section(writer.visitor(), "all", "every kind of key", config);
  return writer.text();
}

TEST(ConfigWriter, IniIsReadable) {
  Everything config;
  config.text = "a # b";
  config.names = {"*.bias", "a,b"};
  config.numbers = {0.9, 0.95};
  config.rate = 3e-4;
  config.needed_text = "x y";
  EXPECT_EQ(
      written(config, ConfigFormat::Ini),
      "[all]\nflag = false\ncount = 0\nrate = 0.0003\ntext = \"a # b\"\nnames = *.bias, a\\,b\n"
      "numbers = 0.9, 0.95\nmaybe_count = auto\nmaybe_rate = auto\nneeded_count = 0\nneeded_flag = "
      "false\n"
      "needed_text = x y\n\n[all.scaling]\nfactor = 1\n");
}

TEST(ConfigWriter, IniRoundTrips) {
  const Rng rng(4, "data", "writer");
  uint64_t draw = 0;
  const auto word = [&] { return rng.word(draw++); };
  const auto text = [&](uint32_t least) {
    std::string out;
    for (uint32_t n = least + word() % 6; n > 0; --n) out += "ab #;\"\\,=[]\n\t."[word() % 14];
    return out;
  };
  const auto number = [&] {
    return (rng.uniform(draw++) - 0.5) * std::pow(10.0, static_cast<int>(word() % 40) - 20);
  };
  for (int i = 0; i < 2000; ++i) {
    Everything given;
    given.flag = word() % 2;
    given.needed_flag = word() % 2;
    given.count = static_cast<int64_t>(uint64_t{word()} << 32 | word());
    given.needed_count = static_cast<int64_t>(word()) - 1000;
    given.rate = number();
    given.factor = number();
    given.text = text(0);
    given.needed_text = text(0);
    for (uint32_t n = word() % 4; n > 0; --n) given.names.push_back(text(1));
    for (uint32_t n = word() % 4; n > 0; --n) given.numbers.push_back(number());
    if (word() % 2) given.maybe_count = static_cast<int64_t>(word() % 1000);
    if (word() % 2) given.maybe_rate = number();
    const std::string ini = written(given, ConfigFormat::Ini);
    ConfigReader reader;
    reader.add_ini(ini, "config.ini");
    Everything read;
    read.names = {"default"};
    read.numbers = {1};
    read.maybe_rate = 5;
    visit_section(reader, "all", "", read);
    ASSERT_NO_THROW(reader.finish()) << ini;
    ASSERT_TRUE(read == given) << ini;
    ASSERT_EQ(written(read, ConfigFormat::Ini), ini);
  }
}

TEST(ConfigWriter, ASecondVisitReplacesTheFirst) {
  Everything config;
  ConfigWriter writer(ConfigFormat::Ini);
  visit_section(writer.visitor(), "all", "", config);
  config.count = 17;
  visit_section(writer.visitor(), "all", "", config);
  const std::string text = writer.text();
  EXPECT_EQ(text, written(config, ConfigFormat::Ini));
  EXPECT_NE(text.find("count = 17"), std::string::npos);
}

TEST(ConfigWriter, HelpShowsKeyDefaultAllowedAndMeaning) {
  Everything config;
  config.count = 8;
  const std::string help = written(config, ConfigFormat::Help);
  EXPECT_EQ(help.find("all: every kind of key\n"), 0u) << help;
  std::string count_line, needed_line, factor_line, maybe_line;
  for (const std::string& line : split(help, '\n')) {
    if (line.find("all.count") != std::string::npos) count_line = line;
    if (line.find("all.needed_flag") != std::string::npos) needed_line = line;
    if (line.find("all.scaling.factor") != std::string::npos) factor_line = line;
    if (line.find("all.maybe_count") != std::string::npos) maybe_line = line;
  }
  EXPECT_EQ(count_line, "  all.count         8         a count [integer]");
  EXPECT_EQ(needed_line, "  all.needed_flag   required  no default [true, false]");
  EXPECT_EQ(factor_line, "  all.scaling.factor  1  stretch [number]");
  EXPECT_EQ(
      maybe_line,
      "  all.maybe_count   auto      an optional count [integer >= -1000000, auto (= count)]");
}

TEST(ConfigWriter, MarkdownIsATableForEachSection) {
  Everything config;
  const std::string text = written(config, ConfigFormat::Markdown);
  EXPECT_EQ(text.find("## [all]\n\nevery kind of key\n\n| key | default | allowed | meaning "
                      "|\n|---|---|---|---|\n"),
            0u);
  EXPECT_NE(text.find("| `rate` | 0 | number | a rate \\| with a bar |\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("\n## [all.scaling]\n"), std::string::npos);
}

TEST(ConfigWriter, JsonIsASchema) {
  Everything config;
  config.names = {"a"};
  config.maybe_rate = 0.5;
  const auto json = nlohmann::json::parse(written(config, ConfigFormat::Json));
  EXPECT_EQ(json.size(), 12u);
  EXPECT_EQ(json["all.count"],
            (nlohmann::json{
                {"type", "integer"}, {"default", 0}, {"allowed", "integer"}, {"help", "a count"}}));
  EXPECT_EQ(json["all.flag"]["default"], false);
  EXPECT_EQ(json["all.names"]["default"], nlohmann::json({"a"}));
  EXPECT_EQ(json["all.maybe_count"]["default"], nullptr);
  EXPECT_EQ(json["all.maybe_rate"]["default"], 0.5);
  EXPECT_EQ(json["all.needed_text"]["required"], true);
  EXPECT_EQ(json["all.needed_text"]["default"], nullptr);
  EXPECT_EQ(json["all.scaling.factor"]["type"], "number");
  EXPECT_FALSE(json["all.count"].contains("required"));
}

TEST(ConfigWriter, KeysOutsideASectionAreNoRunFile) {
  Everything config;
  ConfigWriter ini(ConfigFormat::Ini), json(ConfigFormat::Json);
  config.visit(ini.visitor());
  EXPECT_THROW(ini.text(), InternalError);
  config.visit(json.visitor());
  EXPECT_TRUE(nlohmann::json::parse(json.text()).contains("count"));
  EXPECT_THROW(json.visitor().end_section(), InternalError);
}

}  // namespace config_writer_test
}  // namespace strata
