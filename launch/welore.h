#pragma once
// Which linears of a trained model are replaced by two thin factors, and of which rank (WeLore,
// Jaiswal et al. 2024). Singular values of each weight are normalised within the weight,
//
//   z_i = (s_i - s_min) / (s_max - s_min)      (all 1 when s_max = s_min)
//
// and one threshold tau for the whole model prunes every value with z_i < tau: weights whose
// spectrum falls fast lose more than others. The largest value of a weight is never pruned. A
// weight that lost more than min_ratio of its values is an LRC (low-rank component): it becomes
// A B of rank `kept` and is what fine-tuning trains. The others (N-LRC) stay as they are, and are
// frozen. Pure functions.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace strata {

struct Spectrum {
  std::string name;            // of the linear, "0.self_attn.q_proj"
  int64_t rows = 0, cols = 0;  // of its weight
  std::vector<double> values;  // singular values, decreasing; min(rows, cols) of them
};

// z of a spectrum, in its order.
std::vector<double> normalised(const std::vector<double>& singular_values);
int64_t pruned_count(const std::vector<double>& singular_values, double tau);

struct WeloreRank {
  std::string name;
  int64_t rows = 0, cols = 0;
  int64_t full = 0, kept = 0;  // singular values
  bool low_rank = false;       // LRC
  double lost = 0;             // part of |W|^2 that A B leaves out; 0 when not low_rank

  double ratio() const { return static_cast<double>(full - kept) / static_cast<double>(full); }
  int64_t stored() const { return low_rank ? kept * (rows + cols) : rows * cols; }
};

// min_ratio: LRC are those that lost more than this part of their values; unset ("auto"): those
// whose factors have fewer elements than the weight, kept (rows + cols) < rows cols.
using MinRatio = std::optional<double>;

// One for each spectrum, in its order.
std::vector<WeloreRank> select_ranks(const std::vector<Spectrum>& spectra, double tau,
                                     const MinRatio& min_ratio);

// The threshold that prunes the part `ratio` of all singular values: the quantile of all z, so
// exact up to rounding to one value (and equal ones, which stay or go together). 0 <= ratio < 1.
double threshold_for_ranks(const std::vector<Spectrum>& spectra, double ratio);
// The smallest threshold at which the weights have at least the part `ratio` fewer elements, by
// select_ranks(). Throws ConfigError naming the largest possible part when there is none.
double threshold_for_parameters(const std::vector<Spectrum>& spectra, double ratio,
                                const MinRatio& min_ratio);

struct WeloreTotals {
  int64_t values = 0, pruned = 0;  // singular values of all weights
  int64_t before = 0, after = 0;   // elements of all weights
  int64_t low_rank = 0, linears = 0;
};
WeloreTotals totals(const std::vector<WeloreRank>& ranks);

// The table for people, the same as JSON, and the spectra of every weight with its cut, one chart
// for each linear of a block (by the part of the name after the block's number).
std::string welore_text(const std::vector<WeloreRank>& ranks, double tau);
std::string welore_json(const std::vector<WeloreRank>& ranks, double tau,
                        const MinRatio& min_ratio);
std::string welore_svg(const std::vector<Spectrum>& spectra, const std::vector<WeloreRank>& ranks);

}  // namespace strata
