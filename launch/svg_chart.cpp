#include "launch/svg_chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "core/text.h"

namespace strata {
namespace svg_chart_detail {

// Colours that differ also for those who see few of them.
constexpr std::array<const char*, 8> kPalette = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                 "#e69f00", "#56b4e9", "#000000", "#999999"};
constexpr double kLeft = 64, kRight = 16, kTop = 30, kBottom = 46;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out += c;
    }
  }
  return out;
}

// A place on the page: two digits behind the point are enough.
std::string at(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

std::string mark_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

bool shown(double value, Axis::Scale scale) {
  return std::isfinite(value) && (scale == Axis::Scale::Linear || value > 0);
}

double on_scale(double value, Axis::Scale scale) {
  return scale == Axis::Scale::Log ? std::log10(value) : value;
}

// The part of an axis that the points need, with a little room at both ends. In units of the scale
// (powers of ten on a logarithmic axis).
struct Span {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void widen() {
    if (low > high) low = 0, high = 1;
    const double room = high > low ? 0.04 * (high - low) : std::max(0.1, 0.1 * std::abs(high));
    low -= room;
    high += room;
  }
};

std::string text_at(double x, double y, const char* anchor, const std::string& text,
                    const std::string& more = "") {
  return cat("<text x=\"", at(x), "\" y=\"", at(y), "\" text-anchor=\"", anchor, "\"", more, ">",
             escaped(text), "</text>\n");
}

class Drawing {
 public:
  explicit Drawing(const Chart& chart) : chart_(chart) {
    for (const Series& series : chart.series) {
      for (const auto& [x, y] : series.points) {
        if (!visible(x, y)) continue;
        x_.add(on_scale(x, chart.x.scale));
        y_.add(on_scale(y, chart.y.scale));
      }
    }
    x_.widen();
    y_.widen();
  }

  std::string draw() const {
    std::string out = text_at(chart_.width / 2.0, 18, "middle", chart_.title,
                              " font-size=\"14\" font-weight=\"bold\"");
    out += marks();
    for (size_t s = 0; s < chart_.series.size(); ++s) out += series(chart_.series[s], color(s));
    return out + legend();
  }

 private:
  double right() const { return chart_.width - kRight; }
  double bottom() const { return chart_.height - kBottom; }
  bool visible(double x, double y) const {
    return shown(x, chart_.x.scale) && shown(y, chart_.y.scale);
  }
  double place_x(double x) const {
    return kLeft + (on_scale(x, chart_.x.scale) - x_.low) / (x_.high - x_.low) * (right() - kLeft);
  }
  double place_y(double y) const {
    return bottom() -
           (on_scale(y, chart_.y.scale) - y_.low) / (y_.high - y_.low) * (bottom() - kTop);
  }
  std::string color(size_t s) const {
    const int asked = chart_.series[s].color;
    return kPalette[(asked < 0 ? s : static_cast<size_t>(asked)) % kPalette.size()];
  }
  static std::vector<double> marks_of(const Span& span, Axis::Scale scale) {
    const bool log = scale == Axis::Scale::Log;
    return axis_marks(log ? std::pow(10, span.low) : span.low,
                      log ? std::pow(10, span.high) : span.high, scale);
  }

  std::string marks() const {
    std::string out;
    for (const double x : marks_of(x_, chart_.x.scale)) {
      out += cat("<path class=\"grid\" d=\"M", at(place_x(x)), " ", at(kTop), "V", at(bottom()),
                 "\"/>\n");
      out += text_at(place_x(x), bottom() + 16, "middle", mark_text(x));
    }
    for (const double y : marks_of(y_, chart_.y.scale)) {
      out += cat("<path class=\"grid\" d=\"M", at(kLeft), " ", at(place_y(y)), "H", at(right()),
                 "\"/>\n");
      out += text_at(kLeft - 6, place_y(y) + 4, "end", mark_text(y));
    }
    out += cat("<path class=\"frame\" d=\"M", at(kLeft), " ", at(kTop), "V", at(bottom()), "H",
               at(right()), "\"/>\n");
    out += text_at((kLeft + right()) / 2, chart_.height - 10.0, "middle", chart_.x.label);
    const double middle = (kTop + bottom()) / 2;
    return out + text_at(14, middle, "middle", chart_.y.label,
                         cat(" transform=\"rotate(-90 14 ", at(middle), ")\""));
  }

  std::string series(const Series& series, const std::string& color) const {
    std::string line, dots;
    bool pen_down = false;
    for (const auto& [x, y] : series.points) {
      if (!visible(x, y)) {
        pen_down = false;
        continue;
      }
      line += cat(pen_down ? "L" : "M", at(place_x(x)), " ", at(place_y(y)));
      dots += cat("<circle cx=\"", at(place_x(x)), "\" cy=\"", at(place_y(y)), "\" r=\"3\" fill=\"",
                  color, "\"/>\n");
      pen_down = true;
    }
    std::string out;
    if (series.style != Series::Style::Points && !line.empty())
      out += cat("<path class=\"line\" stroke=\"", color, "\"",
                 series.dashed ? " stroke-dasharray=\"5 4\"" : "", " d=\"", line, "\"/>\n");
    if (series.style != Series::Style::Line) out += dots;
    return out;
  }

  std::string legend() const {
    std::string out;
    double y = kTop + 14;
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      if (chart_.series[s].name.empty()) continue;
      out += cat("<path class=\"line\" stroke=\"", color(s), "\"",
                 chart_.series[s].dashed ? " stroke-dasharray=\"5 4\"" : "", " d=\"M",
                 at(right() - 24), " ", at(y - 4), "H", at(right() - 4), "\"/>\n");
      out += text_at(right() - 30, y, "end", chart_.series[s].name, " class=\"name\"");
      y += 15;
    }
    return out;
  }

  const Chart& chart_;
  Span x_, y_;
};

}  // namespace svg_chart_detail

std::vector<double> axis_marks(double low, double high, Axis::Scale scale) {
  std::vector<double> out;
  // A mark at the very end must not be lost to rounding.
  const auto inside = [&](double value) {
    const double slack = 1e-9 * (scale == Axis::Scale::Log ? value : high - low);
    return value >= low - slack && value <= high + slack;
  };
  if (scale == Axis::Scale::Log) {
    const auto first = static_cast<int>(std::floor(std::log10(low)));
    const auto last = static_cast<int>(std::ceil(std::log10(high)));
    const int every = std::max(1, (last - first) / 8);
    const bool whole = last - first > 4;
    for (int decade = first; decade <= last; decade += every) {
      for (const double factor : {1.0, 2.0, 5.0}) {
        if (whole && factor > 1) break;
        if (const double mark = factor * std::pow(10.0, decade); inside(mark)) out.push_back(mark);
      }
    }
    // Less than a part of a decade: as on a linear axis.
    if (out.size() >= 2) return out;
    out.clear();
  }
  if (!(high > low)) return {low};
  const double rough = (high - low) / 8, power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= rough) step = factor * power;
  }
  for (double k = std::floor(low / step); k * step <= high + step; ++k) {
    const double mark = k * step;
    if (inside(mark) && (scale == Axis::Scale::Linear || mark > 0)) out.push_back(mark);
  }
  return out;
}

std::string charts_svg(const std::vector<Chart>& charts, int columns) {
  using namespace svg_chart_detail;
  int width = 0, height = 0, row_width = 0, row_height = 0, column = 0;
  std::string body;
  for (const Chart& chart : charts) {
    if (column == columns) {
      height += row_height;
      row_width = row_height = column = 0;
    }
    body += cat("<g transform=\"translate(", row_width, " ", height, ")\">\n",
                Drawing(chart).draw(), "</g>\n");
    row_width += chart.width;
    row_height = std::max(row_height, chart.height);
    width = std::max(width, row_width);
    ++column;
  }
  height += row_height;
  return cat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", width, "\" height=\"", height,
             "\" viewBox=\"0 0 ", width, " ", height,
             "\" font-family=\"sans-serif\" font-size=\"11\">\n"
             "<style>.grid{stroke:#dddddd}.frame{stroke:#444444;fill:none}"
             ".line{fill:none;stroke-width:1.6}"
             ".name{paint-order:stroke;stroke:#ffffff;stroke-width:3px}</style>\n"
             "<rect width=\"",
             width, "\" height=\"", height, "\" fill=\"#ffffff\"/>\n", body, "</svg>\n");
}

}  // namespace strata
