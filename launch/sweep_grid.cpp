#include "launch/sweep_grid.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace sweep_grid_detail {

std::string file_safe(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '-' || c == '+' || c == '_';
    if (plain) {
      out += c;
    } else if (c != ' ') {
      out += '_';
    }
  }
  return out;
}

// The last word of a key, or the whole where two axes share it.
std::vector<std::string> short_names(const std::vector<SweepAxis>& axes) {
  std::vector<std::string> out;
  for (const SweepAxis& axis : axes) {
    const std::string last = axis.key.substr(axis.key.rfind('.') + 1);
    const auto same = std::count_if(axes.begin(), axes.end(), [&](const SweepAxis& other) {
      return other.key.substr(other.key.rfind('.') + 1) == last;
    });
    out.push_back(same > 1 ? axis.key : last);
  }
  return out;
}

std::vector<std::string> values_of(const std::string& text) {
  std::vector<std::string> out;
  const char separator = text.find(';') == std::string::npos ? ',' : ';';
  for (const std::string& piece : split(text, separator)) out.emplace_back(trim(piece));
  return out;
}

const std::string& value_of(const SweepPoint& point, const std::string& key) {
  const auto found = std::find_if(point.values.begin(), point.values.end(),
                                  [&](const auto& value) { return value.first == key; });
  STRATA_CHECK(found != point.values.end(), "no axis " + key);
  return found->second;
}

// "" unless the value is the smallest or largest number of the axis.
std::string border_advice(const SweepAxis& axis, const std::string& best) {
  std::vector<double> numbers;
  double at = 0;
  for (const std::string& value : axis.values) {
    double number = 0;
    if (!parse_number(value, number)) return "";
    numbers.push_back(number);
    if (value == best) at = number;
  }
  if (numbers.size() < 2) return "";
  const auto [low, high] = std::minmax_element(numbers.begin(), numbers.end());
  if (at == *high)
    return cat(axis.key, ": best at the largest value, ", best, ": extend it upwards");
  if (at == *low && at != 0)
    return cat(axis.key, ": best at the smallest value, ", best, ": extend it downwards");
  return "";
}

}  // namespace sweep_grid_detail

const char* state_name(SweepResult::State state) {
  switch (state) {
    case SweepResult::State::Finished:
      return "finished";
    case SweepResult::State::Diverged:
      return "diverged";
    case SweepResult::State::Failed:
      return "failed";
    case SweepResult::State::Waiting:
      break;
  }
  return "not finished";
}

std::vector<SweepAxis> parse_sweep_axes(const std::vector<std::string>& words) {
  using namespace sweep_grid_detail;
  constexpr const char* kForm = "KEY=V1,V2,... (values with commas: KEY=V1;V2)";
  std::vector<SweepAxis> axes;
  std::set<std::string> keys;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || word.find('.') > equals)
      throw ConfigError("--set", cat('"', word, '"'), kForm);
    SweepAxis axis{std::string(trim(word.substr(0, equals))), values_of(word.substr(equals + 1))};
    if (starts_with(axis.key, "run."))
      throw ConfigError("--set", axis.key, "keys of other sections",
                        " (each point gets a run directory below --out)");
    if (!keys.insert(axis.key).second)
      throw ConfigError("--set", axis.key + " twice", "each key once, with all its values");
    std::set<std::string> seen;
    for (const std::string& value : axis.values) {
      if (value.empty()) throw ConfigError("--set", cat('"', word, '"'), kForm);
      if (!seen.insert(value).second)
        throw ConfigError("--set", cat(axis.key, "=", value, " twice"), "each value once");
    }
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::vector<SweepPoint> sweep_points(const std::vector<SweepAxis>& axes) {
  using namespace sweep_grid_detail;
  const std::vector<std::string> names = short_names(axes);
  std::vector<SweepPoint> points(1);
  for (size_t a = 0; a < axes.size(); ++a) {
    std::vector<SweepPoint> longer;
    for (const SweepPoint& point : points) {
      for (const std::string& value : axes[a].values) {
        SweepPoint next = point;
        next.name += cat(next.name.empty() ? "" : ",", names[a], "=", file_safe(value));
        next.values.emplace_back(axes[a].key, value);
        longer.push_back(std::move(next));
      }
    }
    points = std::move(longer);
  }
  std::set<std::string> taken;
  for (SweepPoint& point : points) {
    const std::string plain = point.name;
    for (int again = 2; !taken.insert(point.name).second; ++again)
      point.name = cat(plain, "-", again);
  }
  return points;
}

SweepResult read_metrics(const std::string& text) {
  SweepResult out;
  std::vector<double> losses, speeds;
  for (const std::string& line : split(text, '\n')) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("loss") || !json.contains("step")) continue;
    const double loss = json["loss"].is_number() ? json["loss"].get<double>() : std::nan("");
    losses.push_back(loss);
    out.steps = json["step"].get<int64_t>();
    out.curve.emplace_back(static_cast<double>(out.steps), loss);
    out.step_time_s += json.value("seconds", 0.0);
    speeds.push_back(json.value("tokens_per_s", 0.0));
    out.eval_loss.reset();
    if (json.contains("eval_loss"))
      out.eval_loss =
          json["eval_loss"].is_number() ? json["eval_loss"].get<double>() : std::nan("");
  }
  if (losses.empty()) return out;
  const size_t last = std::max<size_t>(1, losses.size() / 20);
  double sum = 0;
  for (size_t i = losses.size() - last; i < losses.size(); ++i) sum += losses[i];
  out.train_loss = sum / static_cast<double>(last);
  if (speeds.size() > 1) speeds.erase(speeds.begin());  // the first step also warms up
  std::nth_element(speeds.begin(), speeds.begin() + static_cast<ptrdiff_t>(speeds.size() / 2),
                   speeds.end());
  out.tokens_per_s = speeds[speeds.size() / 2];
  return out;
}

SweepResult::State judge(const SweepResult& result, int exit_code) {
  constexpr int kNumeric = 6, kPreempted = 75;
  if (exit_code == kNumeric) return SweepResult::State::Diverged;
  if (exit_code < 0 || exit_code == kPreempted) return SweepResult::State::Waiting;
  if (exit_code != 0) return SweepResult::State::Failed;
  const double first = result.curve.empty() ? 0 : result.curve.front().second;
  for (const auto& loss : {result.train_loss, result.eval_loss}) {
    if (loss && !std::isfinite(*loss)) return SweepResult::State::Diverged;
  }
  // A run of one step has nothing to compare with.
  const bool rose = result.steps > 1 && result.train_loss && *result.train_loss > first;
  return rose ? SweepResult::State::Diverged : SweepResult::State::Finished;
}

std::vector<size_t> ranking(const Sweep& sweep) {
  std::vector<size_t> order;
  for (size_t i = 0; i < sweep.results.size(); ++i) {
    if (sweep.results[i].state == SweepResult::State::Finished && sweep.results[i].score())
      order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return *sweep.results[a].score() < *sweep.results[b].score();
  });
  return order;
}

std::vector<SweepBest> sweep_best(const Sweep& sweep, const std::string& key) {
  using namespace sweep_grid_detail;
  std::vector<std::string> groups = {""};
  for (const SweepAxis& axis : sweep.axes) {
    if (axis.key == key) groups = axis.values;
  }
  const std::vector<size_t> order = ranking(sweep);
  std::vector<SweepBest> out;
  for (const std::string& group : groups) {
    const auto best = std::find_if(order.begin(), order.end(), [&](size_t i) {
      return key.empty() || value_of(sweep.points[i], key) == group;
    });
    if (best == order.end()) continue;
    SweepBest entry{group, *best, {}};
    for (const SweepAxis& axis : sweep.axes) {
      if (axis.key == key) continue;
      const std::string advice = border_advice(axis, value_of(sweep.points[*best], axis.key));
      if (!advice.empty()) entry.advice.push_back(advice);
    }
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace strata
