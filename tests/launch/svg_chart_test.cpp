// Charts: marks of axes, what is drawn where, text that browsers can read.
#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "launch/svg_chart.h"

namespace strata {
namespace {

size_t count(const std::string& text, const std::string& piece) {
  size_t n = 0;
  for (size_t at = text.find(piece); at != std::string::npos; at = text.find(piece, at + 1)) ++n;
  return n;
}

TEST(SvgChartTest, MarksOfLinearAxesAreRoundAndInside) {
  EXPECT_EQ(axis_marks(0, 10, Axis::Scale::Linear), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  const auto marks = axis_marks(-0.31, 1.27, Axis::Scale::Linear);
  EXPECT_GE(marks.size(), 4U);
  EXPECT_LE(marks.size(), 9U);
  for (const double mark : marks) {
    EXPECT_GE(mark, -0.31);
    EXPECT_LE(mark, 1.27);
  }
}

TEST(SvgChartTest, MarksOfLogarithmicAxesAreOneTwoFive) {
  const auto marks = axis_marks(1e-3, 1e-1, Axis::Scale::Log);
  ASSERT_EQ(marks.size(), 7U);
  const double expected[] = {1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1};
  for (size_t i = 0; i < marks.size(); ++i) EXPECT_NEAR(marks[i], expected[i], 1e-12);
  for (const double mark : axis_marks(1e-9, 1e9, Axis::Scale::Log))
    EXPECT_NEAR(std::log10(mark), std::round(std::log10(mark)), 1e-9);
  // Part of a decade with no 1, 2 or 5 in it.
  EXPECT_GE(axis_marks(2.2, 4.4, Axis::Scale::Log).size(), 2U);
}

TEST(SvgChartTest, HigherValuesLieHigherAndLogAxesSpaceFactorsEqually) {
  Chart chart;
  chart.x.scale = Axis::Scale::Log;
  chart.series.push_back(
      {.name = "a", .points = {{1, 1}, {10, 2}, {100, 4}}, .style = Series::Style::Points});
  const std::string svg = charts_svg({chart});
  const std::regex circle("<circle cx=\"([0-9.]+)\" cy=\"([0-9.]+)\"");
  std::vector<std::pair<double, double>> places;
  for (std::sregex_iterator it(svg.begin(), svg.end(), circle), end; it != end; ++it)
    places.emplace_back(std::stod((*it)[1]), std::stod((*it)[2]));
  ASSERT_EQ(places.size(), 3U);
  EXPECT_NEAR(places[1].first - places[0].first, places[2].first - places[1].first, 0.02);
  EXPECT_GT(places[0].second, places[1].second);
  EXPECT_NEAR(2 * (places[0].second - places[1].second), places[1].second - places[2].second, 0.03);
}

TEST(SvgChartTest, PointsThatCannotBeShownInterruptTheLine) {
  Chart chart;
  chart.y.scale = Axis::Scale::Log;
  chart.series.push_back(
      {.name = "", .points = {{0, 1}, {1, 2}, {2, std::nan("")}, {3, 0}, {4, 5}, {5, 6}}});
  const std::string svg = charts_svg({chart});
  const size_t begin = svg.find("class=\"line\"");
  ASSERT_NE(begin, std::string::npos);
  const std::string path = svg.substr(begin, svg.find("/>", begin) - begin);
  EXPECT_EQ(count(path, "M"), 2U);
  EXPECT_EQ(count(path, "L"), 2U);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(SvgChartTest, TextIsEscapedAndChartsLieSideBySide) {
  Chart chart{.title = "a < b & \"c\"", .series = {{.name = "<x>", .points = {{1, 1}}}}};
  const std::string svg = charts_svg({chart, chart, chart}, 2);
  EXPECT_EQ(svg.find("<x>"), std::string::npos);
  EXPECT_EQ(count(svg, "a &lt; b &amp; &quot;c&quot;"), 3U);
  EXPECT_EQ(count(svg, "<g transform"), 3U);
  EXPECT_NE(svg.find("width=\"1120\" height=\"760\""), std::string::npos);
  EXPECT_NE(svg.find("translate(0 380)"), std::string::npos);
}

TEST(SvgChartTest, AnEmptyChartAndOnePointAreDrawn) {
  EXPECT_EQ(charts_svg({Chart{}}).find("nan"), std::string::npos);
  Chart one;
  one.series.push_back({.name = "one", .points = {{3, 3}}, .style = Series::Style::Both});
  const std::string svg = charts_svg({one});
  EXPECT_EQ(count(svg, "<circle"), 1U);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

}  // namespace
}  // namespace strata
