#include "optim/rules/muon.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "core/config/reader.h"
#include "core/error.h"
#include "tests/support/update_replay.h"

namespace strata {
namespace muon_test {

using testing::normal;
using testing::Played;
using Trace = std::vector<std::vector<double>>;

double relative_error(const Tensor& given, const Tensor& wanted) {
  return testing::relative(given, wanted, wanted);
}

const Trace kKeller{{0.483228477455, -0.263252283073, 0.088066956399, 0.309113804129},
                    {0.468729422955, -0.253950925361, 0.081153832645, 0.293486788242},
                    {0.478592455195, -0.269936381063, 0.063346119389, 0.290744922951},
                    {0.462653701477, -0.275081280098, 0.070611548335, 0.276806358004}};

TEST(Muon, GoldenTraces) {
  const auto error = [](const MuonConfig& config, const Trace& expected) {
    return testing::trace_error(*make_muon(config), expected, .02);
  };
  EXPECT_LE(error({.eps = 1e-7, .scale = "none"}, kKeller), 1e-10);
  EXPECT_LE(
      error({.eps = 1e-30}, {{0.494539147137, -0.253389732537, 0.096481387790, 0.302147491884},
                             {0.489722471052, -0.250401000277, 0.094382937149, 0.297298018506},
                             {0.491797869012, -0.254565233238, 0.089203288098, 0.296093923015},
                             {0.486576878491, -0.255663993370, 0.091115670322, 0.291723804099}}),
      1e-10);
  EXPECT_LE(error({.coefficients = "pe5", .scale = "none"},
                  {{0.484201473976, -0.264730328987, 0.084137868049, 0.315493934915},
                   {0.467315953307, -0.252381827034, 0.076697197902, 0.295652321863},
                   {0.474478083857, -0.273071540778, 0.055335721214, 0.287066353334},
                   {0.454536300839, -0.282116473095, 0.063667014251, 0.266406047874}}),
            1e-10);
  EXPECT_LE(error({.nesterov = false, .coefficients = "quintic5", .eps = 1e-30, .scale = "none"},
                  {{0.484898318636, -0.263555696300, 0.085790288764, 0.313363726172},
                   {0.470375913922, -0.278012899000, 0.070258061666, 0.325959355890},
                   {0.470507583061, -0.297111526697, 0.050233424439, 0.324227669792},
                   {0.477209933359, -0.315088520317, 0.031410034655, 0.316414558615}}),
            1e-10);
  // What the trace must tell apart.
  EXPECT_GE(error({.nesterov = false, .eps = 1e-7, .scale = "none"}, kKeller), 1e-4);
  EXPECT_GE(error({.momentum = .9, .eps = 1e-7, .scale = "none"}, kKeller), 1e-4);
  EXPECT_GE(error({.coefficients = "quintic5", .eps = 1e-7, .scale = "none"}, kKeller), 1e-4);
  EXPECT_GE(error({.eps = 1e-7, .scale = "none", .weight_decay = 0}, kKeller), 1e-4);
}

TEST(Muon, FollowsTheAuthorsCode) {
  const auto rule = make_muon({.eps = 1e-7, .scale = "original"});
  testing::replay("muon-keller", *rule, .02, 3);
  // Without the scale, tall matrices go another way.
  EXPECT_GE(testing::replay_error(testing::recorded("muon-keller"), "w65x33",
                                  *make_muon({.eps = 1e-7, .scale = "none"}), .02),
            1e-2);
}

TEST(Muon, FollowsTorch) {
  testing::replay("muon-torch-match_rms", *make_muon({.eps = 1e-7, .eps_mode = "clamp"}), .01, 3);
  const auto original = make_muon({.eps = 1e-7, .eps_mode = "clamp", .scale = "original"});
  testing::replay("muon-torch-original", *original, .02, 2);
}

// The heavy-ball form B <- mu B + G, U = G + mu B is 1 / (1 - mu) times ours.
TEST(Muon, HeavyBallMomentumIsTheSame) {
  const auto rule = make_muon({});
  Played w(*rule, normal({5, 8}, 1));
  Tensor heavy = at::zeros_like(w.weights);
  for (int64_t step = 0; step < 4; ++step) {
    const Tensor g = normal({5, 8}, 2 + static_cast<uint64_t>(step));
    heavy = heavy * .95 + g;
    w.update(g, .01);
    EXPECT_LE(relative_error(w.state[0], heavy * .05), 1e-13);
  }
}

TEST(Muon, ScaleIsOfTheMatrixAsItLies) {
  for (const auto& [rows, cols] : {std::pair(40, 10), {10, 40}}) {
    const auto run = [&](const char* scale) {
      const auto rule = make_muon({.scale = scale, .weight_decay = 0});
      Played w(*rule, at::zeros({rows, cols}, at::TensorOptions().dtype(at::kDouble)));
      w.update(normal({rows, cols}, 3), 1);
      return w.weights;
    };
    const Tensor plain = run("none");
    EXPECT_LE(relative_error(run("original"), plain * std::sqrt(std::max(1., 1. * rows / cols))),
              1e-14);
    EXPECT_LE(relative_error(run("spectral"), plain * std::sqrt(1. * rows / cols)), 1e-14);
    const Tensor matched = run("match_rms");
    EXPECT_LE(relative_error(matched, plain * .2 * std::sqrt(40.)), 1e-14);
    const double rms = matched.square().mean().sqrt().item<double>();
    EXPECT_GE(rms, .2 * .68);
    EXPECT_LE(rms, .2 * 1.14);
  }
}

TEST(Muon, DecaysWithoutGradient) {
  const auto rule = make_muon({});
  Played w(*rule, normal({4, 6}, 4));
  const Tensor start = w.weights.clone();
  for (int step = 0; step < 3; ++step) w.update(at::zeros_like(start), .5);
  EXPECT_LE(relative_error(w.weights, start * std::pow(.95, 3)), 1e-14);
}

// lr = 0 (warm-up): the momentum moves, the weights do not.
TEST(Muon, StateMovesAtRateZero) {
  const auto rule = make_muon({});
  Played w(*rule, normal({4, 6}, 5));
  const Tensor start = w.weights.clone();
  w.update(normal({4, 6}, 6), 0);
  EXPECT_TRUE(w.weights.equal(start));
  EXPECT_GT(w.state[0].abs().max().item<double>(), 0);
}

// Bits of a piece depend neither on its neighbours nor on threads.
TEST(Muon, PiecesAreIndependent) {
  const std::vector<Shape> shapes{{40, 100}, {100, 40}, {70, 70}, {1, 30}, {40, 100}, {130, 131}};
  const int before = at::get_num_threads();
  for (const char* type : {"fp32", "bf16"}) {
    const auto rule = make_muon({.ns_dtype = type});
    std::vector<Played> alone, together;
    std::vector<Tensor> grads;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const Tensor start = normal(shapes[i], 10 + i, at::kFloat);
      grads.push_back(normal(shapes[i], 20 + i, at::kFloat));
      alone.emplace_back(*rule, start.clone());
      together.emplace_back(*rule, start.clone());
    }
    at::set_num_threads(1);
    for (size_t i = 0; i < shapes.size(); ++i) alone[i].update(grads[i], .01);
    at::set_num_threads(2);
    std::vector<Piece> pieces;
    for (size_t i = shapes.size(); i-- > 0;) pieces.push_back(together[i].piece(grads[i], .01));
    rule->update(pieces, 0);
    for (size_t i = 0; i < shapes.size(); ++i)
      EXPECT_TRUE(alone[i].weights.equal(together[i].weights)) << type << " " << i;
  }
  at::set_num_threads(before);
}

TEST(Muon, WritesRoundedWeights) {
  const auto rule = make_muon({});
  Played w(*rule, normal({6, 4}, 7, at::kFloat));
  const Tensor rounded = at::zeros({6, 4}, at::TensorOptions().dtype(at::kBFloat16));
  w.update(normal({6, 4}, 8, at::kFloat), .01, 1, rounded);
  EXPECT_TRUE(rounded.equal(w.weights.to(at::kBFloat16)));
}

TEST(Muon, RefusesWhatItCannotDo) {
  const auto rule = make_muon({});
  Played vector(*rule, normal({7}, 9));
  EXPECT_THROW(vector.update(normal({7}, 9), .1), ConfigError);
  ConfigReader reader;
  reader.add_ini("[optim]\ncoefficients = aol4\n", "run.ini");
  reader.begin_section("optim", "");
  MuonConfig config;
  config.visit(reader);
  reader.end_section();
  EXPECT_TRUE(reader.has_problems());
  ConfigReader steps;
  steps.add_ini("[optim]\ncoefficients = pe5\nns_steps = 7\n", "run.ini");
  steps.begin_section("optim", "");
  MuonConfig other;
  other.visit(steps);
  steps.end_section();
  ASSERT_TRUE(steps.has_problems());
  EXPECT_NE(steps.problems()[0].find("ns_steps"), std::string::npos) << steps.problems()[0];
}

// Work that owners balance: long matrices cost less than their elements suggest.
TEST(Muon, CostCountsProducts) {
  const auto rule = make_muon({});
  EXPECT_NEAR(rule->cost(100, 100), 5 * 4e6, 1e5);
  EXPECT_EQ(rule->cost(100, 300), rule->cost(300, 100));
  EXPECT_LT(rule->cost(100, 300), 5 * (4 * 3e6 + 2e6));
}

}  // namespace muon_test
}  // namespace strata
