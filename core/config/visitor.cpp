#include "core/config/visitor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/text.h"

namespace strata {

Allowed<int64_t> any_integer() {
  return {"integer", [](const int64_t&) { return true; }};
}

Allowed<int64_t> at_least(int64_t least) {
  return {cat("integer >= ", least), [least](const int64_t& value) { return value >= least; }};
}

Allowed<int64_t> between(int64_t least, int64_t most) {
  return {cat("integer in [", least, ", ", most, "]"),
          [least, most](const int64_t& value) { return least <= value && value <= most; }};
}

Allowed<double> any_number() {
  return {"number", [](const double& value) { return std::isfinite(value); }};
}

Allowed<double> positive() {
  return {"number > 0", [](const double& value) { return std::isfinite(value) && value > 0; }};
}

Allowed<double> non_negative() {
  return {"number >= 0", [](const double& value) { return std::isfinite(value) && value >= 0; }};
}

Allowed<double> number_between(double least, double most) {
  return {cat("number in [", number_text(least), ", ", number_text(most), "]"),
          [least, most](const double& value) { return least <= value && value <= most; }};
}

Allowed<double> fraction_below_one() {
  return {"number in [0, 1)", [](const double& value) { return 0 <= value && value < 1; }};
}

Allowed<std::string> any_text() {
  return {"text", [](const std::string&) { return true; }};
}

Allowed<std::string> one_of(std::vector<std::string> choices) {
  std::string text = join(choices);
  return {std::move(text),
          [choices](const std::string& value) {
            return std::find(choices.begin(), choices.end(), value) != choices.end();
          },
          choices};
}

Allowed<std::string> path_text() {
  return {"path", [](const std::string&) { return true; }};
}

}  // namespace strata
