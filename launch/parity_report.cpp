#include "launch/parity_report.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace strata {

void ParityReport::compare(const std::string& name, const Tensor& got, const Tensor& expected,
                           double floor) {
  if (got.sizes() != expected.sizes()) {
    return fail(
        name, cat("shape ", shape_text(got.sizes()), ", expected ", shape_text(expected.sizes())));
  }
  const Tensor reference = expected.to(at::kDouble);
  const double size = reference.norm().item<double>();
  const double difference = (got.to(at::kCPU, at::kDouble) - reference).norm().item<double>();
  const double scale = std::max(size, floor);
  const double error = difference == 0 ? 0 : difference / scale;
  lines_.push_back({name, error, size < floor ? "absolute" : ""});
}

void ParityReport::compare(const std::string& name, double got, double expected) {
  const double difference = std::abs(got - expected);
  lines_.push_back(
      {name, difference == 0 ? 0 : difference / std::max(std::abs(expected), 1e-300), ""});
}

void ParityReport::add(const std::string& name, double error) {
  lines_.push_back({name, error, ""});
}

void ParityReport::fail(const std::string& name, const std::string& why) {
  lines_.push_back({name, std::numeric_limits<double>::infinity(), why});
}

bool ParityReport::passed() const {
  return !lines_.empty() &&
         std::all_of(lines_.begin(), lines_.end(), [&](const Line& line) { return good(line); });
}

std::vector<ParityReport::Line> ParityReport::sorted() const {
  std::vector<Line> out = lines_;
  const auto badness = [](const Line& line) {
    return std::isnan(line.error) ? std::numeric_limits<double>::infinity() : line.error;
  };
  std::stable_sort(out.begin(), out.end(),
                   [&](const Line& a, const Line& b) { return badness(a) > badness(b); });
  return out;
}

std::string ParityReport::table() const {
  size_t width = 4;
  for (const Line& line : lines_) width = std::max(width, line.name.size());
  std::string out;
  for (const Line& line : sorted()) {
    char error[32];
    std::snprintf(error, sizeof error, "%9.2e", line.error);
    std::string name = line.name;
    name.resize(width, ' ');
    out += cat(good(line) ? "  ok    " : "  FAIL  ", name, "  ", error,
               line.note.empty() ? "" : "  ", line.note, '\n');
  }
  return out;
}

std::string ParityReport::json_members() const {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const Line& line : sorted()) {
    nlohmann::ordered_json entry = {{"name", line.name}, {"error", line.error}, {"ok", good(line)}};
    if (!std::isfinite(line.error)) entry["error"] = nullptr;
    if (!line.note.empty()) entry["note"] = line.note;
    checks.push_back(std::move(entry));
  }
  const nlohmann::ordered_json json = {
      {"passed", passed()}, {"tolerance", tolerance_}, {"checks", checks}};
  const std::string text = json.dump();
  return text.substr(1, text.size() - 2);
}

}  // namespace strata
