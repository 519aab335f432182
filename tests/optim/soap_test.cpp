#include "optim/rules/soap.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/config/reader.h"
#include "core/error.h"
#include "optim/rules/each_piece.h"
#include "tests/support/update_replay.h"

namespace strata {
namespace {

using testing::Played;
using testing::relative;

class Soap : public testing::Seeded {};

const at::TensorOptions kFp64 = at::TensorOptions().dtype(at::kDouble);

SoapConfig plain() { return {.weight_decay = 0}; }

TEST_F(Soap, GoldenTraces) {
  SoapConfig c;
  c.precondition_frequency = 2;
  testing::expect_trace(*make_soap(c),
                        {{.5, -.25, .1, .3},
                         {0.487302157987, -0.243651079152, 0.093666079434, 0.287322156700},
                         {0.488412595147, -0.246701520063, 0.087711532641, 0.277177859454},
                         {0.486588402706, -0.251352931633, 0.084551800797, 0.265415188849}});
  c.precondition_frequency = 1;
  testing::expect_trace(*make_soap(c),
                        {{.5, -.25, .1, .3},
                         {0.487302157987, -0.243651079152, 0.093666079434, 0.287322156700},
                         {0.488682673448, -0.246505292643, 0.087941996995, 0.277356666997},
                         {0.486982144869, -0.251091117903, 0.085058036219, 0.265784455625}});
  c.one_sided = "always";
  testing::expect_trace(*make_soap(c),
                        {{.5, -.25, .1, .3},
                         {0.492515747034, -0.237946199553, 0.087961344880, 0.292535780571},
                         {0.495473333876, -0.242347108741, 0.081410094000, 0.283361676329},
                         {0.495133411064, -0.247145788079, 0.081634445983, 0.272629767861}});
}

TEST_F(Soap, FollowsTheAuthorsCode) {
  for (const int64_t f : {1, 3, 10}) {
    SoapConfig c;
    c.precondition_frequency = f;
    testing::replay("soap-f" + std::to_string(f), *make_soap(c), .003, 2);
  }
  SoapConfig c;
  c.precondition_frequency = 3;
  c.max_precond_dim = 20;
  testing::replay("soap-onesided", *make_soap(c), .003, 3);
}

// Factors of the first gradient are singular on the longer side: the null space of the recording.
TEST_F(Soap, FollowsTheAuthorsCodeFromGivenBases) {
  SoapConfig c;
  c.precondition_frequency = 3;
  testing::replay(
      "soap-rect-q0", *make_soap(c), .003, 2,
      [](const io::SafetensorsReader& in, const std::string& name, int64_t step, Played& played) {
        if (step != 0) return;
        played.slot("Q_L").copy_(in.read("q0." + name + ".left"));
        played.slot("Q_R").copy_(in.read("q0." + name + ".right"));
      });
}

TEST_F(Soap, FollowsTheAuthorsCodeWithMergedDimensions) {
  SoapConfig c;
  c.precondition_frequency = 5;
  c.max_precond_dim = 64;
  c.merge_dims = c.precondition_1d = true;
  const auto rule = make_soap(c);
  EXPECT_TRUE(rule->takes_vectors(64));
  EXPECT_FALSE(rule->takes_vectors(65));
  // The larger matrix is as ever. Vectors: the test verify_optim_soap-merged.
  testing::replay(
      "soap-merged", *rule, .003, 2,
      [](const io::SafetensorsReader& in, const std::string& name, int64_t step, Played& played) {
        if (step != 0) return;
        for (const auto& [slot, side] : {std::pair("Q_L", ".left"), {"Q_R", ".right"}}) {
          if (in.contains("q0." + name + side))
            played.slot(slot).copy_(in.read("q0." + name + side));
        }
      });
  EXPECT_EQ(make_soap(c)->state_slots({2, 3}, at::kFloat)[2].shape, (Shape{6, 6}));
}

// Without factors: Adam with eps before the correction, one update late, decay last.
TEST_F(Soap, IsAdamWithoutFactors) {
  SoapConfig c;
  c.max_precond_dim = 1;
  c.weight_decay = .1;
  const auto rule = make_soap(c);
  Played played(*rule, at::randn({5, 7}, kFp64));
  EXPECT_EQ(played.state.size(), 2U);
  Tensor w = played.weights.clone(), m = at::zeros_like(w), v = at::zeros_like(w);
  for (int t = 0; t < 6; ++t) {
    const Tensor g = at::randn({5, 7}, kFp64);
    played.update(g * 4, .01, .25);
    if (t > 0) {
      m = .95 * m + .05 * g;
      v = .95 * v + .05 * g * g;
      const double step = .01 * std::sqrt(1 - std::pow(.95, t)) / (1 - std::pow(.95, t));
      w = (w - step * m / (v.sqrt() + 1e-8)) * (1 - .01 * .1);
    }
    EXPECT_LE(relative(played.weights, w, w), 1e-14) << t;
  }
}

TEST_F(Soap, ConstantGradientGivesThePolarFactor) {
  SoapConfig c = plain();
  c.precondition_frequency = 1;
  const auto rule = make_soap(c);
  const auto u = std::get<0>(at::linalg_qr(at::randn({6, 6}, kFp64)));
  const auto v = std::get<0>(at::linalg_qr(at::randn({6, 6}, kFp64)));
  const Tensor s = at::tensor(at::ArrayRef<double>({6., 5., 4., 3., 2., 1.}), kFp64);
  const Tensor g = u.mm(at::diag(s)).mm(v.t());
  Played played(*rule, at::zeros({6, 6}, kFp64));
  for (int t = 0; t < 21; ++t) played.update(g, .1);
  EXPECT_LE(relative(played.weights, -2 * u.mm(v.t()), played.weights), 1e-5);
}

TEST_F(Soap, SignsOfEigenvectorsDoNotMatter) {
  SoapConfig c = plain();
  c.precondition_frequency = 2;
  const auto rule = make_soap(c);
  const Tensor start = at::randn({7, 7}, kFp64);
  Played one(*rule, start), other(*rule, start);
  for (int t = 0; t < 9; ++t) {
    const Tensor g = at::randn({7, 7}, kFp64);
    one.update(g, .01);
    other.update(g, .01);
    if (t == 0) {
      other.slot("Q_L").slice(1, 1, 4).neg_();
      other.slot("Q_R").slice(1, 0, 2).neg_();
    }
  }
  EXPECT_GT(relative(one.weights, start, start), 1e-3);
  EXPECT_LE(relative(one.weights, other.weights, one.weights - start), 1e-10);
}

TEST_F(Soap, TurnsWithTheGradient) {
  SoapConfig c = plain();
  c.precondition_frequency = 2;
  const auto rule = make_soap(c);
  const Tensor a = std::get<0>(at::linalg_qr(at::randn({8, 8}, kFp64)));
  const Tensor b = std::get<0>(at::linalg_qr(at::randn({8, 8}, kFp64)));
  Played one(*rule, at::zeros({8, 8}, kFp64)), other(*rule, at::zeros({8, 8}, kFp64));
  for (int t = 0; t < 9; ++t) {
    const Tensor g = at::randn({8, 8}, kFp64);
    one.update(g, .01);
    other.update(a.mm(g).mm(b), .01);
  }
  EXPECT_LE(relative(other.weights, a.mm(one.weights).mm(b), one.weights), 1e-7);
}

// Zeros, rank 1, vectors as matrices, odd sizes, in fp32: finite, and the first update moves
// nothing.
TEST_F(Soap, EdgeCases) {
  const auto rule = make_soap({.precondition_frequency = 1});
  for (const auto& [p, q] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 9}, {9, 1}, {5, 13}, {1, 1}, {17, 3}}) {
    for (const int kind : {0, 1, 2}) {
      const Tensor start = at::randn({p, q}, kFp64).to(at::kFloat);
      Played played(*rule, start);
      Tensor rounded = at::zeros({p, q}, at::TensorOptions().dtype(at::kBFloat16));
      for (int t = 0; t < 5; ++t) {
        Tensor g = at::zeros({p, q}, start.options());
        if (kind == 1) g = (at::randn({p, 1}, kFp64) * at::randn({1, q}, kFp64)).to(at::kFloat);
        if (kind == 2 && t > 0) g = at::randn({p, q}, kFp64).to(at::kFloat);
        played.update(g, .01, 1, rounded);
        if (t == 0) {
          EXPECT_TRUE(played.weights.equal(start));
        }
        EXPECT_TRUE(rounded.equal(played.weights.to(at::kBFloat16)));
        EXPECT_TRUE(std::isfinite(played.weights.sum().item<float>())) << p << " " << q << kind;
      }
      if (kind == 0) {
        EXPECT_LE(relative(played.weights, start * std::pow(1 - 1e-4, 4), start), 1e-6);
      }
    }
  }
}

TEST_F(Soap, OneSidedChoosesTheSides) {
  const auto names = [](const std::string& sided, int64_t most, Shape shape) {
    std::string all;
    for (const StateSlot& s :
         make_soap({.one_sided = sided, .max_precond_dim = most})->state_slots(shape, at::kFloat)) {
      EXPECT_EQ(s.of_weights, s.name == "m" || s.name == "v");
      if (s.name == "Q_L" || s.name == "Q_R") all += s.name;
    }
    return all;
  };
  EXPECT_EQ(names("auto", 10, {8, 12}), "Q_L");
  EXPECT_EQ(names("auto", 12, {8, 12}), "Q_LQ_R");
  EXPECT_EQ(names("never", 10, {8, 12}), "Q_LQ_R");
  EXPECT_EQ(names("always", 99, {8, 12}), "Q_L");
  EXPECT_EQ(names("always", 99, {12, 8}), "Q_R");
  EXPECT_EQ(names("always", 7, {12, 8}), "");
  EXPECT_EQ(names("auto", 99, {1, 8}), "Q_R");
}

TEST_F(Soap, NormalizedDirectionsHaveARootMeanSquareOfOne) {
  SoapConfig c = plain();
  c.normalize_grads = true;
  c.correct_bias = false;
  const auto rule = make_soap(c);
  Played played(*rule, at::zeros({6, 9}, kFp64));
  played.update(at::randn({6, 9}, kFp64), .5);
  played.update(at::randn({6, 9}, kFp64), .5);
  EXPECT_NEAR(played.weights.square().mean().sqrt().item<double>(), .5, 1e-12);
}

// Staggered or not, a basis changes once in `frequency` updates; when, the name decides.
TEST_F(Soap, StaggerMovesTheRefreshOnly) {
  for (const bool stagger : {false, true}) {
    const auto rule = make_soap({.precondition_frequency = 4, .stagger = stagger});
    Played played(*rule, at::randn({6, 6}, kFp64));
    std::vector<int> changed;
    for (int t = 0; t <= 12; ++t) {
      const Tensor before = played.slot("Q_L").clone();
      played.update(at::randn({6, 6}, kFp64), .01);
      if (t > 0 && !before.equal(played.slot("Q_L"))) changed.push_back(t);
    }
    ASSERT_EQ(changed.size(), 3U);
    EXPECT_EQ(changed[1] - changed[0], 4);
    EXPECT_EQ(changed[2] - changed[1], 4);
    if (!stagger) {
      EXPECT_EQ(changed[0], 4);
    }
  }
}

// The matrices of a parameter do not all refresh in one update.
TEST_F(Soap, StaggerTellsMatricesOfAParameterApart) {
  const auto rule = make_soap({.precondition_frequency = 5, .stagger = true});
  std::set<int> first;
  for (int64_t index = 0; index < 6; ++index) {
    Played played(*rule, at::randn({6, 6}, kFp64));
    played.index = index;
    for (int t = 0; t <= 5; ++t) {
      const Tensor before = played.slot("Q_L").clone();
      played.update(at::randn({6, 6}, kFp64), .01);
      if (t > 0 && !before.equal(played.slot("Q_L"))) first.insert(t);
    }
  }
  EXPECT_GE(first.size(), 3U);
}

// Against the same in fp64, at sizes for the matrix unit where there is one.
// One side, whose factor is regular
// from the first gradient on.
TEST_F(Soap, LargeMatricesInFp32) {
  SoapConfig c = plain();
  c.precondition_frequency = 2;
  c.one_sided = "always";
  const auto rule = make_soap(c);
  const Shape shape{150, 600};
  const Tensor start = testing::normal(shape, 1), sizes = at::linspace(1, 10, 150, kFp64);
  Played exact(*rule, start), narrow(*rule, start.to(at::kFloat));
  for (uint64_t t = 0; t < 7; ++t) {
    const Tensor g = (testing::normal(shape, 10 + t) * sizes.unsqueeze(1)).to(at::kFloat);
    exact.update(g.to(at::kDouble), .01);
    narrow.update(g, .01);
  }
  const Tensor q = narrow.slot("Q_L").to(at::kDouble);
  EXPECT_LE((q.t().mm(q) - at::eye(150, kFp64)).abs().max().item<double>(), 2e-5);
  EXPECT_LE(relative(narrow.weights.to(at::kDouble), exact.weights, exact.weights - start), 1e-2);
}

// A factor that cannot be decomposed leaves the basis alone, three times in a row end the run.
TEST_F(Soap, FailedRefreshesKeepTheBasisAndThenThrow) {
  SoapConfig c = plain();
  c.precondition_frequency = 1;
  const auto rule = make_soap(c);
  Played played(*rule, at::randn({5, 5}, kFp64));
  for (int t = 0; t < 3; ++t) played.update(at::randn({5, 5}, kFp64), .01);
  const Tensor basis = played.slot("Q_L").clone(), factor = played.slot("L").clone();
  const auto poison = [&] { played.slot("L").fill_(std::numeric_limits<double>::quiet_NaN()); };
  for (int t = 1; t <= 2; ++t) {
    poison();
    played.update(at::randn({5, 5}, kFp64), .01);
    EXPECT_TRUE(basis.equal(played.slot("Q_L")));
    EXPECT_EQ(played.slot("failed_refreshes").item<double>(), t);
  }
  played.slot("L").copy_(factor);
  played.update(at::randn({5, 5}, kFp64), .01);
  EXPECT_EQ(played.slot("failed_refreshes").item<double>(), 0);
  EXPECT_FALSE(basis.equal(played.slot("Q_L")));
  EXPECT_TRUE(std::isfinite(played.weights.sum().item<double>()));
  poison();
  played.update(at::randn({5, 5}, kFp64), .01);
  played.update(at::randn({5, 5}, kFp64), .01);
  EXPECT_THROW(played.update(at::randn({5, 5}, kFp64), .01), NumericError);
}

TEST_F(Soap, AFirstGradientWithoutEigenvectorsThrows) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const auto rule = make_soap({});
    Played played(*rule, at::randn({5, 4}, kFp64).to(type));
    Tensor g = at::randn({5, 4}, kFp64).to(type);
    g[1][2].fill_(std::numeric_limits<double>::quiet_NaN());
    EXPECT_THROW(played.update(g, .01), NumericError);
  }
}

// Every tile is updated as a matrix of its own, ragged edges too.
TEST_F(Soap, TilesAreMatricesOfTheirOwn) {
  SoapConfig c;
  c.precondition_frequency = 2;
  const auto whole = make_soap(c);
  c.block = 4;
  const auto tiled = make_soap(c);
  const int64_t p = 6, q = 9;
  Played together(*tiled, testing::normal({p, q}, 1));
  struct Part {
    int64_t row, rows, col, cols;
    Played played;
  };
  std::vector<Part> parts;
  for (const auto& [row, rows] : {std::pair<int64_t, int64_t>{0, 4}, {4, 2}}) {
    for (const auto& [col, cols] : {std::pair<int64_t, int64_t>{0, 4}, {4, 4}, {8, 1}}) {
      const Tensor start = together.weights.narrow(0, row, rows).narrow(1, col, cols);
      parts.push_back({row, rows, col, cols, Played(*whole, start.contiguous())});
    }
  }
  for (uint64_t step = 0; step < 7; ++step) {
    const Tensor g = testing::normal({p, q}, 10 + step);
    together.update(g, .01);
    for (Part& part : parts) {
      part.played.update(
          g.narrow(0, part.row, part.rows).narrow(1, part.col, part.cols).contiguous(), .01);
      const Tensor tile =
          together.weights.narrow(0, part.row, part.rows).narrow(1, part.col, part.cols);
      EXPECT_LE(relative(tile, part.played.weights, tile), 1e-14) << part.row << " " << part.col;
    }
  }
  EXPECT_EQ(together.slot("L").numel(), 3 * (16 + 4));
  EXPECT_EQ(together.slot("Q_R").numel(), 2 * (16 + 16));  // a column of one has no factor
  // Tiles at least as large as the matrix are the matrix, with its usual state.
  c.block = 9;
  EXPECT_EQ(make_soap(c)->state_slots({6, 9}, at::kFloat)[2].shape, (Shape{6, 6}));
  EXPECT_LT(tiled->cost(600, 900), whole->cost(600, 900));
}

// Bits of a matrix do not depend on its neighbours, refreshes included. (LAPACK's differ with the
// number of threads of the process.)
TEST_F(Soap, PiecesAreIndependent) {
  const std::vector<Shape> shapes{{40, 70}, {70, 40}, {33, 33}, {1, 30}, {100, 90}};
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  SoapConfig c;
  c.precondition_frequency = 2;
  const auto rule = make_soap(c);
  std::vector<Played> alone, together;
  for (size_t i = 0; i < shapes.size(); ++i) {
    alone.emplace_back(*rule, testing::normal(shapes[i], i, at::kFloat));
    together.emplace_back(*rule, testing::normal(shapes[i], i, at::kFloat));
  }
  for (int64_t step = 0; step < 4; ++step) {
    std::vector<Tensor> grads;
    std::vector<Piece> pieces;
    for (size_t i = 0; i < shapes.size(); ++i)
      grads.push_back(
          testing::normal(shapes[i], 100 * static_cast<uint64_t>(step + 1) + i, at::kFloat));
    for (size_t i = 0; i < shapes.size(); ++i) alone[i].update(grads[i], .01);
    for (size_t i = shapes.size(); i-- > 0;) pieces.push_back(together[i].piece(grads[i], .01));
    rule->update(pieces, step);
  }
  at::set_num_threads(before);
  for (size_t i = 0; i < shapes.size(); ++i)
    EXPECT_TRUE(alone[i].weights.equal(together[i].weights)) << i;
}

// MKL's QR of a matrix of this size waits for ever where two threads call it, each believed to lead
// a team of two.
TEST_F(Soap, TwoThreadsDecomposeLargeMatrices) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const auto rule = make_soap({});
  const Tensor x = at::randn({2048, 2048}, at::TensorOptions().dtype(at::kFloat));
  Played one(*rule, at::zeros({2, 2}, kFp64)), other = one;
  std::vector<Piece> pieces{one.piece(one.weights, 0), other.piece(other.weights, 0)};
  for_each_piece(pieces, *rule, Threads::One, [&](Piece& piece) {
    piece.grad_scale = std::get<0>(at::linalg_qr(x)).square().sum().item<double>();
  });
  at::set_num_threads(before);
  for (const Piece& piece : pieces) EXPECT_NEAR(piece.grad_scale, 2048, 1);
}

TEST_F(Soap, ReadsItsKeysFromARunFile) {
  ConfigReader reader;
  reader.add_ini("[optim]\none_sided = sometimes\nprecondition_frequency = 5\n", "run.ini");
  reader.begin_section("optim", "");
  EXPECT_EQ(rule_registry().make("soap", reader)->name(), "soap");
  reader.end_section();
  ASSERT_EQ(reader.problems().size(), 1U);
  EXPECT_NE(reader.problems()[0].find("optim.one_sided"), std::string::npos);
}

}  // namespace
}  // namespace strata
