#include "optim/rules/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "core/rng.h"
#include "optim/matrix/newton_schulz.h"

namespace strata {
namespace muon_test_detail {

using Trace = std::array<std::array<double, 4>, 4>;
const Trace kMuonGradients{
    {{.1, .2, .3, -.4}, {.2, -.1, .05, .3}, {-.3, .25, .15, .1}, {.12, .07, -.2, .33}}};

Tensor two_by_two(const std::array<double, 4>& v) {
  return at::tensor(at::ArrayRef<double>(v.data(), 4), at::TensorOptions().dtype(at::kDouble))
      .view({2, 2});
}

Tensor gaussian(int64_t rows, int64_t cols, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(rows * cols));
  Rng(seed, "test", "muon").fill_normal(0, rows * cols, values.data());
  return at::tensor(at::ArrayRef<float>(values)).to(at::kDouble).view({rows, cols});
}

double error(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

void expect_trace(const MuonConfig& config, const Trace& expected) {
  const auto rule = make_muon(config);
  Tensor w = two_by_two({.5, -.25, .1, .3});
  std::vector<Tensor> state{at::zeros_like(w)};
  for (int step = 0; step < 4; ++step) {
    Piece piece{.weights = w,
                .grad = two_by_two(kMuonGradients[step]) * 4,
                .state = state,
                .grad_scale = .25,
                .lr = .02,
                .decay = rule->weight_decay()};
    rule->update({&piece, 1}, step);
    for (int i = 0; i < 4; ++i)
      EXPECT_NEAR(w.data_ptr<double>()[i], expected[step][i], 1e-10) << step << " " << i;
  }
}

}  // namespace muon_test_detail

using namespace muon_test_detail;

TEST(Muon, GoldenTraces) {
  expect_trace({.eps = 1e-7, .scale = "none"},
               {{{0.483228477455, -0.263252283073, 0.088066956399, 0.309113804129},
                 {0.468729422955, -0.253950925361, 0.081153832645, 0.293486788242},
                 {0.478592455195, -0.269936381063, 0.063346119389, 0.290744922951},
                 {0.462653701477, -0.275081280098, 0.070611548335, 0.276806358004}}});
  expect_trace({.eps = 1e-300},
               {{{0.494539147137, -0.253389732537, 0.096481387790, 0.302147491884},
                 {0.489722471052, -0.250401000277, 0.094382937149, 0.297298018506},
                 {0.491797869012, -0.254565233238, 0.089203288098, 0.296093923015},
                 {0.486576878491, -0.255663993370, 0.091115670322, 0.291723804099}}});
  expect_trace({.coefficients = "pe5", .scale = "none"},
               {{{0.484201473976, -0.264730328987, 0.084137868049, 0.315493934915},
                 {0.467315953307, -0.252381827034, 0.076697197902, 0.295652321863},
                 {0.474478083857, -0.273071540778, 0.055335721214, 0.287066353334},
                 {0.454536300839, -0.282116473095, 0.063667014251, 0.266406047874}}});
  expect_trace({.nesterov = false, .coefficients = "quintic5", .eps = 1e-300, .scale = "none"},
               {{{0.484898318636, -0.263555696300, 0.085790288764, 0.313363726172},
                 {0.470375913922, -0.278012899000, 0.070258061666, 0.325959355890},
                 {0.470507583061, -0.297111526697, 0.050233424439, 0.324227669792},
                 {0.477209933359, -0.315088520317, 0.031410034655, 0.316414558615}}});
}

TEST(NewtonSchulz, ClosedForms) {
  struct Case {
    const char* set;
    double at_1, at_root_half, at_half;
  };
  for (const Case& c : {Case{"keller5", .6964364095, 1.1081111157, .7654385305},
                        Case{"quintic5", .9783455603, 1.0256120434, .9858693541},
                        Case{"pe5", .9035374202, 1.1347714950, 1.0864030486}}) {
    NewtonSchulz how = newton_schulz_set(c.set);
    how.eps = 1e-300;
    const auto on = at::TensorOptions().dtype(at::kDouble);
    const Tensor row = gaussian(1, 7, 1);
    EXPECT_LE(error(newton_schulz(row, how), row / row.norm() * c.at_1), 1e-9) << c.set;
    EXPECT_LE(error(newton_schulz(at::eye(2, on) * 3, how), at::eye(2, on) * c.at_root_half), 1e-9);
    EXPECT_LE(error(newton_schulz(at::eye(4, on) * .1, how), at::eye(4, on) * c.at_half), 1e-9);
    // Rank one.
    const Tensor u = gaussian(5, 1, 2), v = gaussian(1, 3, 3);
    EXPECT_LE(error(newton_schulz(u.mm(v), how), u.mm(v) / (u.norm() * v.norm()) * c.at_1), 1e-9);
  }
  const Tensor x = two_by_two({3, 0, 0, 4});
  NewtonSchulz keller = newton_schulz_set("keller5");
  EXPECT_LE(error(newton_schulz(x, keller), two_by_two({.7228761686, 0, 0, 1.1192039299})), 1e-9);
  const Tensor exact = newton_schulz(gaussian(20, 30, 4), newton_schulz_set("exact12"));
  EXPECT_LE((exact.mm(exact.t()) - at::eye(20, exact.options())).abs().max().item<double>(), 1e-5);
}

TEST(NewtonSchulz, Symmetries) {
  const NewtonSchulz how = newton_schulz_set("keller5");
  const Tensor x = gaussian(13, 29, 5), y = newton_schulz(x, how);
  EXPECT_LE(error(newton_schulz(x.t(), how), y.t()), 1e-13);
  EXPECT_LE(error(newton_schulz(-x, how), -y), 1e-13);
  for (const double scale : {1e-6, 1e6}) EXPECT_LE(error(newton_schulz(x * scale, how), y), 1e-12);
  const Tensor left = std::get<0>(at::linalg_qr(gaussian(13, 13, 6))),
               right = std::get<0>(at::linalg_qr(gaussian(29, 29, 7)));
  EXPECT_LE(error(newton_schulz(left.mm(x).mm(right), how), left.mm(y).mm(right)), 1e-12);
  EXPECT_EQ(newton_schulz(x * 0, how).abs().max().item<double>(), 0);
}

// Symmetric products in blocks and the Gram iteration, against the plain form.
TEST(NewtonSchulz, FastFormsAreThePlainOne) {
  for (const char* set : {"keller5", "pe5", "exact12", "cubic5"}) {
    const NewtonSchulz how = newton_schulz_set(set);
    for (const auto& [rows, cols] : {std::pair(300, 300), {700, 260}, {130, 270}, {129, 128}}) {
      const Tensor x = gaussian(rows, cols, 8);
      EXPECT_LE(error(newton_schulz(x, how), newton_schulz_plain(x, how)), 1e-10)
          << set << " " << rows << " x " << cols;
      const Tensor narrow = newton_schulz(x.to(at::kFloat), how);
      EXPECT_LE(error(narrow.to(at::kDouble), newton_schulz_plain(x, how)), 2e-5)
          << set << " " << rows << " x " << cols;
    }
  }
}

TEST(NewtonSchulz, PolarExpressIsDerived) {
  const auto derived = polar_express(1e-3, 5, 2e-2, 0.02);
  const NewtonSchulz pe5 = newton_schulz_set("pe5");
  for (size_t i = 0; i < 5; ++i) {
    for (int k = 0; k < 3; ++k)
      EXPECT_NEAR(derived[i][k], pe5.steps[i][k], 1e-11 * std::abs(pe5.steps[i][k])) << i << k;
  }
}

TEST(Muon, ScaleIsOfTheOriginalShape) {
  for (const auto& [rows, cols] : {std::pair(40, 10), {10, 40}}) {
    const auto run = [&](const char* scale) {
      const auto rule = make_muon({.scale = scale, .weight_decay = 0});
      Tensor w = at::zeros({rows, cols}, at::TensorOptions().dtype(at::kDouble));
      std::vector<Tensor> state{at::zeros_like(w)};
      Piece piece{.weights = w, .grad = gaussian(rows, cols, 9), .state = state, .lr = 1};
      rule->update({&piece, 1}, 0);
      return w;
    };
    const Tensor plain = run("none");
    EXPECT_LE(error(run("original"), plain * std::sqrt(std::max(1., 1. * rows / cols))), 1e-14);
    EXPECT_LE(error(run("match_rms"), plain * .2 * std::sqrt(40.)), 1e-14);
  }
}

// No gradient: decay alone, W0 (1 - lr wd)^t.
TEST(Muon, DecaysWithoutGradient) {
  const auto rule = make_muon({});
  Tensor w = gaussian(4, 6, 10), start = w.clone();
  std::vector<Tensor> state{at::zeros_like(w)};
  for (int step = 0; step < 3; ++step) {
    Piece piece{.weights = w, .grad = at::zeros_like(w), .state = state, .lr = .5, .decay = .1};
    rule->update({&piece, 1}, step);
  }
  EXPECT_LE(error(w, start * std::pow(.95, 3)), 1e-14);
}

// 16-bit orthogonalisation is near, and does not overflow for any size of gradient.
TEST(Muon, SixteenBits) {
  for (const char* type : {"bf16", "fp16"}) {
    for (const double size : {1e-12, 1.0, 1e12}) {
      const Tensor g = (gaussian(64, 96, 11) * size).to(at::kFloat);
      const auto run = [&](const char* dtype) {
        const auto rule = make_muon({.ns_dtype = dtype});
        Tensor w = at::zeros_like(g);
        std::vector<Tensor> state{at::zeros_like(w)};
        Piece piece{.weights = w, .grad = g, .state = state, .lr = 1};
        rule->update({&piece, 1}, 0);
        return w;
      };
      EXPECT_LE(error(run(type), run("fp32")), 3e-2) << type << " " << size;
    }
  }
}

}  // namespace strata
