#include "core/config/ini.h"

#include <gtest/gtest.h>

#include "core/rng.h"

namespace strata {
namespace config_ini_test {

using Texts = std::vector<std::string>;

void expect_entry(std::string_view line, const std::string& key, const std::string& value) {
  const IniLine parsed = parse_ini_line(line);
  ASSERT_EQ(parsed.kind, IniLine::Kind::Entry) << line << ": " << parsed.value;
  EXPECT_EQ(parsed.name, key) << line;
  EXPECT_EQ(parsed.value, value) << line;
}

TEST(IniLine, BlankLinesAndComments) {
  for (const char* line : {"", "   ", "\t", "# text", "  ; text = 1", "#", "#[section]"}) {
    EXPECT_EQ(parse_ini_line(line).kind, IniLine::Kind::Blank) << line;
  }
}

TEST(IniLine, Sections) {
  for (const char* line :
       {"[optim.aux]", "  [ optim.aux ]  ", "[optim.aux] # comment", "[optim.aux]; comment"}) {
    const IniLine parsed = parse_ini_line(line);
    EXPECT_EQ(parsed.kind, IniLine::Kind::Section) << line;
    EXPECT_EQ(parsed.name, "optim.aux") << line;
  }
}

TEST(IniLine, Entries) {
  expect_entry("lr = 0.1", "lr", "0.1");
  expect_entry("  lr=0.1  ", "lr", "0.1");
  expect_entry("rope_scaling.factor = 2", "rope_scaling.factor", "2");
  expect_entry("text = a b  c", "text", "a b  c");
  expect_entry("url = a=b=c", "url", "a=b=c");
  expect_entry("empty =", "empty", "");
  expect_entry("path = C:\\dir \"x\"", "path", "C:\\dir \"x\"");
  expect_entry(
      "name = gr\xC3\xBC\xC3\x9F"
      "e",
      "name",
      "gr\xC3\xBC\xC3\x9F"
      "e");
}

TEST(IniLine, CommentsAfterValues) {
  expect_entry("lr = 0.1 # per step", "lr", "0.1");
  expect_entry("lr = 0.1\t; per step", "lr", "0.1");
  expect_entry("tag = a#b;c", "tag", "a#b;c");
  expect_entry("tag =#b # c", "tag", "#b");
  expect_entry("empty = # nothing", "empty", "");
}

TEST(IniLine, QuotedValues) {
  expect_entry(R"(a = "x # y ; z")", "a", "x # y ; z");
  expect_entry(R"(a = "  x  " # comment)", "a", "  x  ");
  expect_entry(R"(a = ""; comment)", "a", "");
  expect_entry(R"(a = "q \" b \\ n \n t \t")", "a", "q \" b \\ n \n t \t");
  expect_entry(R"(a = "x"#c)", "a", "x");
}

TEST(IniLine, BadLinesSayWhatIsAllowed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"lr", "got \"lr\", allowed: key = value"},
      {"[optim", "closing bracket is missing"},
      {"[optim] x", "nothing but a comment after [section]"},
      {"[]", "got section \"\""},
      {"[a..b]", "got section \"a..b\""},
      {"[a b]", "got section \"a b\""},
      {"= 3", "got key \"\""},
      {"my key = 3", "got key \"my key\""},
      {".a = 3", "got key \".a\""},
      {"a. = 3", "got key \"a.\""},
      {"a = \"open", "closing quote"},
      {"a = \"x\" y", "nothing but a comment after the closing quote"},
      {"a = \"x\\q\"", "allowed after a backslash"},
      {"a = \"x\\", "allowed after a backslash"},
      {std::string("a = \0", 5), "control character 0x00"},
      {"a = \x01", "control character 0x01"},
      {"a = \x7f", "control character 0x7f"},
      {"a = \xff", "byte 0xff that is not UTF-8"},
      {"a = \xC0\x80", "byte 0xc0 that is not UTF-8"},
      {"a = \xE0\x80\x80", "byte 0xe0 that is not UTF-8"},
      {"a = \xF0\x80\x80\x80", "byte 0xf0 that is not UTF-8"},
      {"a = \xF4\x90\x80\x80", "byte 0xf4 that is not UTF-8"},
      {"# \xED\xA0\x80", "byte 0xed that is not UTF-8"},
      {"# \xF5\x80\x80\x80", "byte 0xf5 that is not UTF-8"},
      {"a = \xE2\x82", "byte 0xe2 that is not UTF-8"},
  };
  for (const auto& [line, expected] : cases) {
    const IniLine parsed = parse_ini_line(line);
    EXPECT_EQ(parsed.kind, IniLine::Kind::Bad) << line;
    EXPECT_NE(parsed.value.find(expected), std::string::npos) << line << ": " << parsed.value;
    EXPECT_EQ(text_fault(parsed.value), "") << "a message must be printable";
  }
}

TEST(IniLine, ShownValuesAreShortAndPrintable) {
  EXPECT_EQ(shown_value("mun"), "\"mun\"");
  EXPECT_EQ(shown_value(std::string("a\0\n\xff", 4)), "\"a<0x00><0x0a><0xff>\"");
  EXPECT_LT(shown_value(std::string(100000, 'x')).size(), 100u);
  EXPECT_EQ(shown_value("\xF0\x9F\x98\x80"), "\"\xF0\x9F\x98\x80\"");
}

TEST(IniList, Elements) {
  Texts out;
  EXPECT_TRUE(parse_ini_list("", out));
  EXPECT_TRUE(out.empty());
  EXPECT_TRUE(parse_ini_list(" a ,b c, d", out));
  EXPECT_EQ(out, Texts({"a", "b c", "d"}));
  EXPECT_TRUE(parse_ini_list(R"(a\,b,\ c\ ,d\\)", out));
  EXPECT_EQ(out, Texts({"a,b", " c ", "d\\"}));
  for (const char* bad : {",", "a,", ",a", "a,,b", "a, ,b"}) {
    EXPECT_FALSE(parse_ini_list(bad, out)) << bad;
  }
}

// Whatever a value holds, it is read back the same.
TEST(IniText, ValuesAndListsRoundTrip) {
  const Rng rng(3, "data", "ini");
  uint64_t draw = 0;
  const std::string alphabet = "ab.=[]#; \t\"\\,n\n\xC3\xA9";
  const auto random_text = [&](uint32_t least) {
    std::string text;
    for (uint32_t n = least + rng.word(draw++) % 8; n > 0; --n) {
      const char c = alphabet[rng.word(draw++) % (alphabet.size() - 1)];
      text += c;
      if (c == '\xC3') text += '\xA9';
    }
    return text;
  };
  for (int i = 0; i < 20000; ++i) {
    const std::string value = random_text(0);
    const IniLine line = parse_ini_line("key = " + ini_value_text(value) + " # comment");
    ASSERT_EQ(line.kind, IniLine::Kind::Entry) << line.value;
    ASSERT_EQ(line.value, value);

    Texts elements;
    for (uint32_t n = rng.word(draw++) % 4; n > 0; --n) elements.push_back(random_text(1));
    const IniLine list = parse_ini_line("key = " + ini_list_text(elements));
    ASSERT_EQ(list.kind, IniLine::Kind::Entry) << list.value;
    Texts read;
    ASSERT_TRUE(parse_ini_list(list.value, read)) << list.value;
    ASSERT_EQ(read, elements) << list.value;
  }
}

TEST(IniText, PlainValuesStayPlain) {
  EXPECT_EQ(ini_value_text("runs/a b/x"), "runs/a b/x");
  EXPECT_EQ(ini_value_text(""), "\"\"");
  EXPECT_EQ(ini_value_text("a # b"), "\"a # b\"");
  EXPECT_EQ(ini_list_text({"*.bias", "norm*"}), "*.bias, norm*");
  EXPECT_EQ(ini_list_text({}), "");
}

}  // namespace config_ini_test
}  // namespace strata
