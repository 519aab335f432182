#pragma once
// Small charts as SVG text, readable in any browser: lines and points on linear or logarithmic
// axes, a legend, several charts side by side.
//
//   Chart chart{.title = "loss", .x = {"step"}, .y = {"loss", Axis::Scale::Log}};
//   chart.series.push_back({.name = "adamw", .points = {{1, 5.5}, {2, 4.1}}});
//   io::write_text_atomic("loss.svg", charts_svg({chart}));
//
// Everything here is pure: the same input gives the same text.
#include <string>
#include <utility>
#include <vector>

namespace strata {

struct Axis {
  enum class Scale { Linear, Log };
  std::string label;
  Scale scale = Scale::Linear;
};

struct Series {
  enum class Style { Line, Points, Both };
  std::string name;  // "": not in the legend
  // x, y. Points that are not finite, or not above zero on a logarithmic axis, are left out and
  // interrupt the line.
  std::vector<std::pair<double, double>> points;
  Style style = Style::Line;
  bool dashed = false;
  int color = -1;  // index of the palette; -1: the series' own number
};

struct Chart {
  std::string title;
  Axis x, y;
  std::vector<Series> series;
  int width = 560, height = 380;  // pixels
};

// Places of the marks of an axis from `low` to `high` (inclusive), increasing: steps of 1, 2 or 5
// times a power of ten; on a logarithmic axis 1, 2, 5 of each decade, or whole decades when there
// are many.
std::vector<double> axis_marks(double low, double high, Axis::Scale scale);

// One SVG document with the charts in rows of `columns`.
std::string charts_svg(const std::vector<Chart>& charts, int columns = 2);

}  // namespace strata
