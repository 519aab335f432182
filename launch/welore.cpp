#include "launch/welore.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"
#include "launch/svg_chart.h"

namespace strata {
namespace welore_detail {

bool low_rank(const WeloreRank& rank, const MinRatio& min_ratio) {
  if (!min_ratio) return rank.kept * (rank.rows + rank.cols) < rank.rows * rank.cols;
  return rank.ratio() > *min_ratio;
}

double percent(double part) { return std::round(part * 1e4) / 100; }

std::string padded(std::string text, size_t width, bool right = true) {
  if (text.size() >= width) return text;
  const std::string room(width - text.size(), ' ');
  return right ? room + text : text + room;
}

}  // namespace welore_detail

std::vector<double> normalised(const std::vector<double>& s) {
  if (s.empty()) return {};
  const auto [low, high] = std::minmax_element(s.begin(), s.end());
  std::vector<double> z;
  for (const double value : s) z.push_back(*high > *low ? (value - *low) / (*high - *low) : 1);
  return z;
}

int64_t pruned_count(const std::vector<double>& s, double tau) {
  const std::vector<double> z = normalised(s);
  return std::count_if(z.begin(), z.end(), [&](double value) { return value < tau; });
}

std::vector<WeloreRank> select_ranks(const std::vector<Spectrum>& spectra, double tau,
                                     const MinRatio& min_ratio) {
  std::vector<WeloreRank> out;
  for (const Spectrum& spectrum : spectra) {
    WeloreRank rank{.name = spectrum.name, .rows = spectrum.rows, .cols = spectrum.cols};
    rank.full = static_cast<int64_t>(spectrum.values.size());
    rank.kept = std::max<int64_t>(1, rank.full - pruned_count(spectrum.values, tau));
    rank.low_rank = welore_detail::low_rank(rank, min_ratio);
    double all = 0, left_out = 0;
    for (int64_t i = 0; i < rank.full; ++i) {
      const double square =
          spectrum.values[static_cast<size_t>(i)] * spectrum.values[static_cast<size_t>(i)];
      all += square;
      if (i >= rank.kept) left_out += square;
    }
    if (rank.low_rank && all > 0) rank.lost = left_out / all;
    out.push_back(std::move(rank));
  }
  return out;
}

double threshold_for_ranks(const std::vector<Spectrum>& spectra, double ratio) {
  std::vector<double> z;
  for (const Spectrum& spectrum : spectra) {
    const std::vector<double> own = normalised(spectrum.values);
    z.insert(z.end(), own.begin(), own.end());
  }
  if (z.empty()) return 0;
  const auto wanted = std::min<size_t>(
      z.size() - 1, static_cast<size_t>(std::llround(ratio * static_cast<double>(z.size()))));
  std::nth_element(z.begin(), z.begin() + static_cast<ptrdiff_t>(wanted), z.end());
  return z[wanted];
}

// Every z, from the smallest on, is a threshold at which one value more is pruned: the sizes are
// kept up to date along the way.
double threshold_for_parameters(const std::vector<Spectrum>& spectra, double ratio,
                                const MinRatio& min_ratio) {
  std::vector<std::pair<double, size_t>> steps;
  std::vector<WeloreRank> ranks = select_ranks(spectra, 0, min_ratio);
  int64_t before = 0, after = 0;
  for (size_t i = 0; i < spectra.size(); ++i) {
    for (const double z : normalised(spectra[i].values)) steps.emplace_back(z, i);
    before += ranks[i].rows * ranks[i].cols;
    after += ranks[i].stored();
  }
  std::sort(steps.begin(), steps.end());
  double best = 0;
  const auto reached = [&] {
    const double part = 1 - static_cast<double>(after) / static_cast<double>(before);
    best = std::max(best, part);
    return part >= ratio;
  };
  // Before step k the threshold steps[k].first prunes all of the k smaller ones.
  for (size_t k = 0; k < steps.size(); ++k) {
    const bool first_of_equals = k == 0 || steps[k - 1].first < steps[k].first;
    if (first_of_equals && reached()) return steps[k].first;
    WeloreRank& rank = ranks[steps[k].second];
    after -= rank.stored();
    rank.kept = std::max<int64_t>(1, rank.kept - 1);
    rank.low_rank = welore_detail::low_rank(rank, min_ratio);
    after += rank.stored();
  }
  throw ConfigError("--ratio", number_text(ratio),
                    cat("at most ", number_text(std::floor(best * 1e4) / 1e4)),
                    " (of these weights' elements, whatever the threshold)");
}

WeloreTotals totals(const std::vector<WeloreRank>& ranks) {
  WeloreTotals out;
  for (const WeloreRank& rank : ranks) {
    out.values += rank.full;
    out.pruned += rank.full - rank.kept;
    out.before += rank.rows * rank.cols;
    out.after += rank.stored();
    out.low_rank += rank.low_rank ? 1 : 0;
    ++out.linears;
  }
  return out;
}

std::string welore_text(const std::vector<WeloreRank>& ranks, double tau) {
  using namespace welore_detail;
  size_t width = 6;
  for (const WeloreRank& rank : ranks) width = std::max(width, rank.name.size());
  std::string out = cat(padded("linear", width, false), "         shape   rank  of full  pruned  ",
                        "class  norm lost\n");
  for (const WeloreRank& rank : ranks) {
    out += cat(padded(rank.name, width, false), "  ", padded(cat(rank.rows, " x ", rank.cols), 12),
               "  ", padded(cat(rank.low_rank ? rank.kept : rank.full), 5), "  ",
               padded(cat(rank.full), 7), "  ",
               padded(cat(number_text(percent(rank.ratio())), " %"), 7), "  ",
               rank.low_rank ? "LRC    " : "N-LRC  ",
               rank.low_rank ? cat(number_text(percent(std::sqrt(rank.lost))), " %") : "-", "\n");
  }
  const WeloreTotals all = totals(ranks);
  const auto part = [](int64_t a, int64_t b) {
    return percent(static_cast<double>(a) / static_cast<double>(b));
  };
  return out + cat("\nthreshold ", number_text(std::round(tau * 1e6) / 1e6), ": ", all.pruned,
                   " of ", all.values, " singular values pruned (",
                   number_text(part(all.pruned, all.values)), " %); ", all.low_rank, " of ",
                   all.linears, " linears of low rank; ", all.before, " elements become ",
                   all.after, " (", number_text(part(all.after, all.before)), " %)\n");
}

std::string welore_json(const std::vector<WeloreRank>& ranks, double tau,
                        const MinRatio& min_ratio) {
  const WeloreTotals all = totals(ranks);
  nlohmann::ordered_json j = {{"tau", tau}};
  j["min_ratio"] = min_ratio ? nlohmann::ordered_json(*min_ratio) : nlohmann::ordered_json("auto");
  j["singular_values"] = all.values;
  j["pruned"] = all.pruned;
  j["elements_before"] = all.before;
  j["elements_after"] = all.after;
  j["linears"] = nlohmann::ordered_json::array();
  for (const WeloreRank& rank : ranks) {
    j["linears"].push_back({{"name", rank.name},
                            {"shape", {rank.rows, rank.cols}},
                            {"full", rank.full},
                            {"kept", rank.kept},
                            {"class", rank.low_rank ? "LRC" : "N-LRC"},
                            {"lost_of_squared_norm", rank.lost}});
  }
  return j.dump(2) + "\n";
}

std::string welore_svg(const std::vector<Spectrum>& spectra, const std::vector<WeloreRank>& ranks) {
  std::vector<Chart> charts;
  for (size_t i = 0; i < spectra.size(); ++i) {
    const size_t dot = spectra[i].name.find('.');
    const std::string block = spectra[i].name.substr(0, dot),
                      linear = spectra[i].name.substr(dot + 1);
    auto chart = std::find_if(charts.begin(), charts.end(),
                              [&](const Chart& c) { return c.title == linear; });
    if (chart == charts.end()) {
      charts.push_back({.title = linear,
                        .x = {"number of the singular value"},
                        .y = {"normalised"},
                        .series = {},
                        .width = 460,
                        .height = 320});
      chart = charts.end() - 1;
    }
    const int color = static_cast<int>(chart->series.size() / 2);
    const std::vector<double> z = normalised(spectra[i].values);
    Series line{.name = cat("block ", block), .points = {}, .color = color};
    for (size_t k = 0; k < z.size(); ++k)
      line.points.emplace_back(static_cast<double>(k + 1), z[k]);
    // The last value that is kept; what is not cut has none.
    Series cut{.name = "", .points = {}, .style = Series::Style::Points, .color = color};
    if (ranks[i].low_rank)
      cut.points.push_back(line.points[static_cast<size_t>(ranks[i].kept - 1)]);
    chart->series.push_back(std::move(line));
    chart->series.push_back(std::move(cut));
  }
  return charts_svg(charts, 2);
}

}  // namespace strata
