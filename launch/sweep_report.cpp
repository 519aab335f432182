#include "launch/sweep_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "core/config/reader.h"
#include "core/table.h"
#include "core/text.h"
#include "launch/svg_chart.h"

namespace strata {
namespace sweep_report_detail {

using Row = std::vector<std::string>;

std::string fixed(const std::optional<double>& value, int digits) {
  if (!value) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, *value);
  return text;
}

// Best first, then the others in grid order.
std::vector<size_t> table_order(const Sweep& sweep) {
  std::vector<size_t> order = ranking(sweep);
  for (size_t i = 0; i < sweep.points.size(); ++i) {
    if (std::find(order.begin(), order.end(), i) == order.end()) order.push_back(i);
  }
  return order;
}

std::vector<Row> table(const Sweep& sweep) {
  Row head;
  for (const SweepAxis& axis : sweep.axes) head.push_back(axis.key);
  for (const char* column : {"valid loss", "train loss", "tokens/s", "time", "state"})
    head.emplace_back(column);
  std::vector<Row> rows = {head};
  for (const size_t i : table_order(sweep)) {
    const SweepResult& r = sweep.results[i];
    Row row;
    for (const auto& [key, value] : sweep.points[i].values) row.push_back(value);
    row.push_back(fixed(r.eval_loss, 4));
    row.push_back(fixed(r.train_loss, 4));
    row.push_back(r.steps > 0 ? fixed(r.tokens_per_s, 0) : "-");
    row.push_back(r.steps > 0 ? duration_text(r.step_time_s) : "-");
    std::string state = state_name(r.state);
    if (r.state == SweepResult::State::Failed) state += cat(" (", r.exit_code, ")");
    row.push_back(state);
    rows.push_back(row);
  }
  return rows;
}

// What follows the table: one sentence a line.
std::vector<std::string> remarks(const Sweep& sweep, const std::string& key) {
  std::vector<std::string> out;
  for (const SweepBest& best : sweep_best(sweep, key)) {
    const SweepResult& r = sweep.results[best.point];
    const std::string what = key.empty() ? "best" : cat("best of ", key, " = ", best.value);
    out.push_back(cat(what, ": ", sweep.points[best.point].name, ", ",
                      r.eval_loss ? "valid loss " : "train loss ", fixed(r.score(), 4)));
    for (const std::string& advice : best.advice) out.push_back(cat("  ", advice));
  }
  for (size_t i = 0; i < sweep.points.size(); ++i) {
    const SweepResult& r = sweep.results[i];
    if (r.state == SweepResult::State::Failed)
      out.push_back(cat(sweep.points[i].name, " failed with ", r.exit_code,
                        r.message.empty() ? "" : ": ", r.message));
  }
  return out;
}

// At most 200 points, each the mean of its neighbours: a line that can be read.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& all) {
  constexpr size_t kMost = 200;
  const size_t each = all.size() / kMost + 1;
  std::vector<std::pair<double, double>> out;
  for (size_t begin = 0; begin < all.size(); begin += each) {
    const size_t end = std::min(all.size(), begin + each);
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) {
      x += all[i].first;
      y += all[i].second;
    }
    const auto count = static_cast<double>(end - begin);
    out.emplace_back(x / count, y / count);
  }
  return out;
}

Chart curves(const Sweep& sweep, const std::string& key) {
  constexpr size_t kMost = 6;
  Chart chart{.title = key.empty() ? "the best points" : cat("the best of each ", key),
              .x = {"step"},
              .y = {"train loss"},
              .series = {}};
  const auto add = [&](size_t point) {
    chart.series.push_back(
        {.name = sweep.points[point].name, .points = thinned(sweep.results[point].curve)});
  };
  if (key.empty()) {
    const std::vector<size_t> order = ranking(sweep);
    for (size_t i = 0; i < std::min(order.size(), kMost); ++i) add(order[i]);
  } else {
    for (const SweepBest& best : sweep_best(sweep, key)) add(best.point);
  }
  return chart;
}

// The numbers of an axis in the order of its values, or nothing.
std::vector<double> numbers(const SweepAxis& axis) {
  std::vector<double> out;
  for (const std::string& value : axis.values) {
    double number = 0;
    if (!parse_number(value, number)) return {};
    out.push_back(number);
  }
  return out;
}

// Whether the values grow by factors rather than by steps.
bool geometric(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.front() > 0 && values.back() / values.front() >= 3;
}

std::vector<Chart> against_key(const Sweep& sweep, const std::string& key) {
  size_t swept = sweep.axes.size();
  for (size_t a = 0; a < sweep.axes.size(); ++a) {
    const size_t count = numbers(sweep.axes[a]).size();
    if (sweep.axes[a].key == key || count < 2) continue;
    if (swept == sweep.axes.size() || count > sweep.axes[swept].values.size()) swept = a;
  }
  if (swept == sweep.axes.size()) return {};
  const SweepAxis& axis = sweep.axes[swept];
  // Group and number to the best loss.
  std::map<std::string, std::map<double, double>> lines;
  std::vector<std::string> groups;
  const std::vector<size_t> order = ranking(sweep);
  for (const size_t i : order) {
    std::string group;
    for (const auto& [name, value] : sweep.points[i].values) {
      if (name == key) group = value;
    }
    double x = 0;
    parse_number(sweep.points[i].values[swept].second, x);
    lines[group].emplace(x, *sweep.results[i].score());  // the first one is the best
  }
  for (const SweepAxis& other : sweep.axes) {
    if (other.key == key) groups = other.values;
  }
  if (groups.empty()) groups = {""};
  const bool valid = std::any_of(order.begin(), order.end(),
                                 [&](size_t i) { return sweep.results[i].eval_loss.has_value(); });
  Chart chart{.title = cat("loss at the end against ", axis.key),
              .x = {axis.key, geometric(numbers(axis)) ? Axis::Scale::Log : Axis::Scale::Linear},
              .y = {valid ? "validation loss" : "train loss"},
              .series = {}};
  for (const std::string& group : groups) {
    Series line{.name = group, .points = {}, .style = Series::Style::Both};
    for (const auto& point : lines[group]) line.points.push_back(point);
    chart.series.push_back(std::move(line));
  }
  return {chart};
}

}  // namespace sweep_report_detail

std::string sweep_text(const Sweep& sweep, const std::string& key) {
  using namespace sweep_report_detail;
  std::string out = table_text(table(sweep));
  const std::vector<std::string> said = remarks(sweep, key);
  if (!said.empty()) out += "\n";
  for (const std::string& remark : said) out += remark + "\n";
  return out;
}

std::string sweep_markdown(const Sweep& sweep, const std::string& key) {
  using namespace sweep_report_detail;
  const std::vector<Row> rows = table(sweep);
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    out += cat("| ", join(rows[r], " | "), " |\n");
    if (r == 0) {
      out += "|";
      for (size_t c = 0; c < rows[0].size(); ++c) out += "---|";
      out += "\n";
    }
  }
  out += "\n";
  for (const std::string& remark : remarks(sweep, key))
    out += cat(starts_with(remark, "  ") ? "  " : "", "- ", trim(remark), "\n");
  return out;
}

std::string sweep_json(const Sweep& sweep, const std::string& key) {
  using namespace sweep_report_detail;
  nlohmann::ordered_json json = {{"by", key}, {"axes", nlohmann::ordered_json::object()}};
  for (const SweepAxis& axis : sweep.axes) json["axes"][axis.key] = axis.values;
  json["points"] = nlohmann::ordered_json::array();
  for (const size_t i : table_order(sweep)) {
    const SweepResult& r = sweep.results[i];
    nlohmann::ordered_json point = {{"name", sweep.points[i].name},
                                    {"values", nlohmann::ordered_json::object()},
                                    {"state", state_name(r.state)}};
    for (const auto& [name, value] : sweep.points[i].values) point["values"][name] = value;
    if (r.exit_code >= 0) point["exit_code"] = r.exit_code;
    if (!r.message.empty()) point["message"] = r.message;
    point["steps"] = r.steps;
    if (r.train_loss) point["train_loss"] = *r.train_loss;
    if (r.eval_loss) point["eval_loss"] = *r.eval_loss;
    if (r.steps > 0) {
      point["tokens_per_s"] = r.tokens_per_s;
      point["step_time_s"] = r.step_time_s;
    }
    json["points"].push_back(std::move(point));
  }
  json["best"] = nlohmann::ordered_json::array();
  for (const SweepBest& best : sweep_best(sweep, key)) {
    json["best"].push_back(
        {{"value", best.value}, {"point", sweep.points[best.point].name}, {"advice", best.advice}});
  }
  return json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string sweep_svg(const Sweep& sweep, const std::string& key) {
  using namespace sweep_report_detail;
  std::vector<Chart> charts = {curves(sweep, key)};
  for (Chart& chart : against_key(sweep, key)) charts.push_back(std::move(chart));
  return charts_svg(charts);
}

}  // namespace strata
