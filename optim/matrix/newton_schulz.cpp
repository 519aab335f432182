#include "optim/matrix/newton_schulz.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace newton_schulz_detail {

using Step = std::array<double, 3>;

constexpr Step kKeller{3.4445, -4.7750, 2.0315}, kExact{2, -1.5, .5};

struct Set {
  std::vector<Step> steps;
  double pre = 1, eps = 1e-20;
};

// As published; pe8 safety-divided but for its last step.
const std::map<std::string, Set>& sets() {
  static const std::map<std::string, Set> all = [] {
    std::vector<Step> pe8{{8.28721201814563, -23.595886519098837, 17.300387312530933},
                          {4.107059111542203, -2.9478499167379106, .5448431082926601},
                          {3.9486908534822946, -2.908902115962949, .5518191394370137},
                          {3.3184196573706015, -2.488488024314874, .51004894012372},
                          {2.300652019954817, -1.6689039845749493, .4188073119525673},
                          {1.891301407787398, -1.2679958271945868, .37680408948524835},
                          {1.8750014808534479, -1.2500016453999487, .3750001645474248},
                          {1.875, -1.25, .375}};
    for (size_t i = 0; i + 1 < pe8.size(); ++i) {
      for (int k = 0; k < 3; ++k) pe8[i][k] /= std::pow(1.01, 2 * k + 1);
    }
    return std::map<std::string, Set>{
        {"keller5", {std::vector<Step>(5, kKeller)}},
        {"exact12", {std::vector<Step>(12, kExact)}},
        {"pe8", {std::move(pe8), 1.01, 1e-7}},
        {"pe5",
         {{{8.156554524902461, -22.48329292557795, 15.878769915207462},
           {4.042929935166739, -2.808917465908714, .5000178451051316},
           {3.8916678022926607, -2.772484153217685, .5060648178503393},
           {3.285753657755655, -2.3681294933425376, .46449024233003106},
           {2.3465413258596377, -1.7097828382687081, .42323551169305323}},
          1.02,
          1e-6}},
        {"quintic5",
         {{{4.0848, -6.8946, 2.9270},
           {3.9505, -6.3029, 2.6377},
           {3.7418, -5.5913, 2.3037},
           {2.8769, -3.1427, 1.2046},
           {2.8366, -3.0525, 1.2012}}}},
        {"cans5",
         {{{8.4703, -25.1081, 18.6293},
           {4.1828, -3.1087, .5806},
           {3.9619, -2.9541, .5630},
           {3.2866, -2.4647, .5074},
           {2.2737, -1.6447, .4162}}}},
        {"cubic5",
         {{{3.3656576, -3.3420992, 0},
           {2.5744352, -1.4957376, 0},
           {2.5368962, -1.4312570, 0},
           {2.4418906, -1.2764040, 0},
           {2.2230472, -.9630650, 0}}}}};
  }();
  return all;
}

// The best quintic for [l, u]: equal deviations of alternating sign at l, q, r, u (Remez exchange
// on the two inner points).
Step best_quintic(double l, double u) {
  if (l / u >= 1 - 5e-6) return {15. / 8 / u, -10. / 8 / std::pow(u, 3), 3. / 8 / std::pow(u, 5)};
  double q = (3 * l + u) / 4, r = (l + 3 * u) / 4, error = INFINITY;
  Step out{};
  for (int round = 0; round < 200; ++round) {
    std::vector<double> rows;
    double sign = 1;
    for (const double x : {l, q, r, u}) {
      rows.insert(rows.end(), {x, x * x * x, std::pow(x, 5), sign});
      sign = -sign;
    }
    const auto on = at::TensorOptions().dtype(at::kDouble);
    const Tensor solution = at::linalg_solve(
        at::tensor(at::ArrayRef<double>(rows), on).view({4, 4}), at::tensor({1., 1., 1., 1.}, on));
    const double* s = solution.const_data_ptr<double>();
    out = {s[0], s[1], s[2]};
    const double root = std::sqrt(9 * s[1] * s[1] - 20 * s[0] * s[2]);
    q = std::sqrt((-3 * s[1] - root) / (10 * s[2]));
    r = std::sqrt((-3 * s[1] + root) / (10 * s[2]));
    if (std::abs(s[3] - error) <= 1e-15) break;
    error = s[3];
  }
  return out;
}

double value(const Step& p, double x) {
  return p[0] * x + p[1] * x * x * x + p[2] * std::pow(x, 5);
}

// Divided by its norm, which is taken in fp64 (fp32 squares underflow below 1e-23).
Tensor normalised(const Tensor& x, const NewtonSchulz& how) {
  const double norm = how.pre * std::sqrt(x.to(at::kDouble).square().sum().item<double>());
  const double by = how.clamp ? std::max(norm, how.eps) : norm + how.eps;
  return x.to(accumulate_dtype(x.scalar_type())).div(by).to(x.scalar_type());
}

// Reads x as [m, n] with m <= n and turns the result back.
template <class Run>
Tensor oriented(const Tensor& x, const NewtonSchulz& how, Run&& run) {
  const bool tall = x.size(0) > x.size(1);
  const Tensor y = run(normalised(tall ? x.t().contiguous() : x.contiguous(), how));
  return tall ? y.t().contiguous() : y;
}

// b A + c A A.
Tensor polynomial(const Tensor& a, const Step& s) {
  if (s[2] == 0) return a * s[1];
  return symmetric_product(a).mul_(s[2]).add_(a, s[1]);
}

Tensor iterate(Tensor x, const NewtonSchulz& how) {
  for (const Step& s : how.steps) x = at::addmm(x, polynomial(symmetric_product(x), s), x, s[0], 1);
  return x;
}

// Q = prod of (a + Z) with Z = b R + c R R, R <- (a + Z) R (a + Z): all m x m, symmetric,
// commuting.
Tensor iterate_gram(Tensor x, const NewtonSchulz& how) {
  constexpr size_t kRestart = 2;
  Tensor r = symmetric_product(x), q;
  for (size_t k = 0; k < how.steps.size(); ++k) {
    const Step& s = how.steps[k];
    if (k == kRestart) {
      x = at::mm(q, x);
      r = symmetric_product(x);
      q = Tensor();
    }
    const Tensor z = polynomial(r, s);
    if (q.defined()) {
      q = at::addmm(q, q, z, s[0], 1);
    } else {
      q = z.clone();
      q.diagonal().add_(s[0]);
    }
    if (k + 1 < how.steps.size() && k + 1 != kRestart) {
      const Tensor y = at::addmm(r, r, z, s[0], 1);
      r = at::addmm(y, z, y, s[0], 1);
    }
  }
  return at::mm(q, x);
}

}  // namespace newton_schulz_detail

using namespace newton_schulz_detail;

std::vector<std::string> newton_schulz_sets() {
  std::vector<std::string> out;
  for (const auto& [name, set] : sets()) out.push_back(name);
  return out;
}

NewtonSchulz newton_schulz_set(const std::string& name, int count) {
  const auto at = sets().find(name);
  STRATA_CHECK(at != sets().end(), cat("no coefficients called ", name));
  const Set& set = at->second;
  NewtonSchulz out{.steps = set.steps, .pre = set.pre, .eps = set.eps};
  if (count > 0) out.steps.resize(static_cast<size_t>(count), set.steps.back());
  return out;
}

std::vector<std::array<double, 3>> polar_express(double lower, int steps, double safety,
                                                 double cushion) {
  std::vector<Step> out;
  double u = 1, l = lower;
  for (int k = 0; k < steps; ++k) {
    Step p = best_quintic(std::max(l, cushion * u), u);
    if (cushion * u > l) {
      const double centre = 2 / (value(p, l) + value(p, u));
      for (double& c : p) c *= centre;
    }
    if (k + 1 < steps) {
      for (int i = 0; i < 3; ++i) p[i] /= std::pow(1 + safety, 2 * i + 1);
    }
    out.push_back(p);
    l = value(p, l);
    u = 2 - l;
  }
  return out;
}

Tensor symmetric_product(const Tensor& x) {
  constexpr int64_t kBlock = 128;
  const int64_t m = x.size(0);
  if (m < 2 * kBlock || !x.is_cpu()) return at::mm(x, x.t());
  const Tensor out = at::empty({m, m}, x.options());
  for (int64_t begin = 0; begin < m; begin += kBlock) {
    const int64_t rows = std::min(kBlock, m - begin), cols = begin + rows;
    Tensor part = out.narrow(0, begin, rows).narrow(1, 0, cols);
    at::mm_out(part, x.narrow(0, begin, rows), x.narrow(0, 0, cols).t());
    if (begin > 0)
      out.narrow(0, 0, begin).narrow(1, begin, rows).copy_(part.narrow(1, 0, begin).t());
  }
  return out;
}

Tensor newton_schulz(const Tensor& x, const NewtonSchulz& how) {
  constexpr int64_t kGramFrom = 128;  // rows; below, products are too small to matter
  return oriented(x, how, [&](const Tensor& y) {
    const bool gram = y.size(0) >= kGramFrom && y.size(1) >= 2 * y.size(0) &&
                      how.steps.size() > 2 && accumulate_dtype(y.scalar_type()) == y.scalar_type();
    return gram ? iterate_gram(y, how) : iterate(y, how);
  });
}

Tensor newton_schulz_plain(const Tensor& x, const NewtonSchulz& how) {
  return oriented(x, how, [&](Tensor y) {
    for (const Step& s : how.steps) {
      const Tensor a = at::mm(y, y.t());
      const Tensor b = a * s[1] + at::mm(a, a) * s[2];
      y = y * s[0] + at::mm(b, y);
    }
    return y;
  });
}

}  // namespace strata
