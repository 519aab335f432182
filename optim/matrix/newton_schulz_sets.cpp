#include "optim/matrix/newton_schulz_sets.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace newton_schulz_sets_detail {

constexpr OddPolynomial kKeller{3.4445, -4.7750, 2.0315}, kExact{2, -1.5, .5};

// All but the last divided by the powers of 1 + safety: p(x / (1 + safety)).
void flatten(std::vector<OddPolynomial>& steps, double safety) {
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    for (size_t k = 0; k < 3; ++k)
      steps[i][k] /= std::pow(1 + safety, static_cast<double>(2 * k + 1));
  }
}

struct Set {
  NewtonSchulz how;
  bool repeats = false;  // further steps repeat the last
};

std::map<std::string, Set> sets() {
  std::vector<OddPolynomial> ten(8, kKeller);
  ten.insert(ten.end(), 2, kExact);
  std::vector<OddPolynomial> pe8{{8.28721201814563, -23.595886519098837, 17.300387312530933},
                                 {4.107059111542203, -2.9478499167379106, .5448431082926601},
                                 {3.9486908534822946, -2.908902115962949, .5518191394370137},
                                 {3.3184196573706015, -2.488488024314874, .51004894012372},
                                 {2.300652019954817, -1.6689039845749493, .4188073119525673},
                                 {1.891301407787398, -1.2679958271945868, .37680408948524835},
                                 {1.8750014808534479, -1.2500016453999487, .3750001645474248},
                                 {1.875, -1.25, .375}};
  flatten(pe8, .01);
  const std::vector<OddPolynomial> pe5{
      {8.156554524902461, -22.48329292557795, 15.878769915207462},
      {4.042929935166739, -2.808917465908714, .5000178451051316},
      {3.8916678022926607, -2.772484153217685, .5060648178503393},
      {3.285753657755655, -2.3681294933425376, .46449024233003106},
      {2.3465413258596377, -1.7097828382687081, .42323551169305323}};
  const std::vector<OddPolynomial> quintic5{{4.0848, -6.8946, 2.9270},
                                            {3.9505, -6.3029, 2.6377},
                                            {3.7418, -5.5913, 2.3037},
                                            {2.8769, -3.1427, 1.2046},
                                            {2.8366, -3.0525, 1.2012}};
  const std::vector<OddPolynomial> cans5{{8.4703, -25.1081, 18.6293},
                                         {4.1828, -3.1087, .5806},
                                         {3.9619, -2.9541, .5630},
                                         {3.2866, -2.4647, .5074},
                                         {2.2737, -1.6447, .4162}};
  const std::vector<OddPolynomial> cubic5{{3.3656576, -3.3420992, 0},
                                          {2.5744352, -1.4957376, 0},
                                          {2.5368962, -1.4312570, 0},
                                          {2.4418906, -1.2764040, 0},
                                          {2.2230472, -.9630650, 0}};
  return {{"keller5", {{.steps = std::vector<OddPolynomial>(5, kKeller)}, true}},
          {"exact12", {{.steps = std::vector<OddPolynomial>(12, kExact)}, true}},
          {"dsv4_10", {{.steps = ten}, true}},
          {"pe8", {{.steps = pe8, .pre = 1.01, .eps = 1e-7}, true}},
          {"pe5", {{.steps = pe5, .pre = 1.02, .eps = 1e-6}}},
          {"quintic5", {{.steps = quintic5}}},
          {"cans5", {{.steps = cans5}, true}},
          {"cubic5", {{.steps = cubic5}}}};
}

double value(const OddPolynomial& p, double x) {
  return x * (p[0] + x * x * (p[1] + x * x * p[2]));
}

// Four equations, Gauss with row exchange.
std::array<double, 4> solve(std::array<std::array<double, 5>, 4> rows) {
  for (size_t column = 0; column < 4; ++column) {
    size_t best = column;
    for (size_t r = column + 1; r < 4; ++r) {
      if (std::abs(rows[r][column]) > std::abs(rows[best][column])) best = r;
    }
    std::swap(rows[column], rows[best]);
    for (size_t r = 0; r < 4; ++r) {
      if (r == column) continue;
      const double factor = rows[r][column] / rows[column][column];
      for (size_t k = column; k < 5; ++k) rows[r][k] -= factor * rows[column][k];
    }
  }
  std::array<double, 4> x{};
  for (size_t r = 0; r < 4; ++r) x[r] = rows[r][4] / rows[r][r];
  return x;
}

// The quintic nearest to 1 on [l, u]: equal errors of alternating sign at l, q, r and u (Remez; q
// and r move to the extrema until the error stays).
OddPolynomial nearest_to_one(double l, double u) {
  if (l / u >= 1 - 5e-6) return {15. / 8 / u, -10. / 8 / std::pow(u, 3), 3. / 8 / std::pow(u, 5)};
  double q = (3 * l + u) / 4, r = (l + 3 * u) / 4, error = INFINITY;
  OddPolynomial p{};
  for (int round = 0; round < 200; ++round) {
    std::array<std::array<double, 5>, 4> rows;
    double sign = 1;
    size_t i = 0;
    for (const double x : {l, q, r, u}) {
      rows[i++] = {x, std::pow(x, 3), std::pow(x, 5), sign, 1};
      sign = -sign;
    }
    const auto [a, b, c, e] = solve(rows);
    p = {a, b, c};
    const double root = std::sqrt(9 * b * b - 20 * a * c);
    q = std::sqrt((-3 * b - root) / (10 * c));
    r = std::sqrt((-3 * b + root) / (10 * c));
    if (std::abs(e - error) <= 1e-15) break;
    error = e;
  }
  return p;
}

}  // namespace newton_schulz_sets_detail

using namespace newton_schulz_sets_detail;

std::vector<std::string> newton_schulz_sets() {
  std::vector<std::string> names;
  for (const auto& [name, set] : sets()) names.push_back(name);
  return names;
}

std::string allowed_ns_steps(const std::string& name, int64_t steps) {
  const auto all = sets();
  const auto at = all.find(name);
  if (at == all.end() || steps == 0) return "";
  const auto own = static_cast<int64_t>(at->second.how.steps.size());
  if (at->second.repeats || steps == own) return "";
  return cat("0 or ", own, " with coefficients = ", name, ", whose steps belong together");
}

NewtonSchulz newton_schulz_set(const std::string& name, int64_t steps) {
  const auto all = sets();
  const auto at = all.find(name);
  if (at == all.end()) {
    throw ConfigError(
        "optim.coefficients", cat('"', name, '"'), join(newton_schulz_sets()),
        name == "aol4" ? ". aol4 turns singular values near 1 negative where matrices are divided "
                         "by their Frobenius norm, as Muon does."
                       : did_you_mean(name, newton_schulz_sets()));
  }
  if (const std::string allowed = allowed_ns_steps(name, steps); !allowed.empty())
    throw ConfigError("optim.ns_steps", cat(steps), allowed);
  NewtonSchulz how = at->second.how;
  if (steps > 0) how.steps.resize(static_cast<size_t>(steps), how.steps.back());
  return how;
}

double compose(const std::vector<OddPolynomial>& steps, double sigma) {
  for (const OddPolynomial& p : steps) sigma = value(p, sigma);
  return sigma;
}

std::vector<OddPolynomial> polar_express(double lower, int64_t steps, double safety,
                                         double cushion) {
  std::vector<OddPolynomial> out;
  double l = lower, u = 1;
  for (int64_t k = 0; k < steps; ++k) {
    OddPolynomial p = nearest_to_one(std::max(l, cushion * u), u);
    if (cushion * u > l) {  // the values below the cushion pull the interval down: centre it on 1
      const double centre = 2 / (value(p, l) + value(p, u));
      for (double& c : p) c *= centre;
    }
    if (k + 1 < steps) {
      for (size_t i = 0; i < 3; ++i) p[i] /= std::pow(1 + safety, static_cast<double>(2 * i + 1));
    }
    out.push_back(p);
    l = value(p, l);
    u = 2 - l;
  }
  return out;
}

}  // namespace strata
