#include "optim/rules/galore.h"

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

#include "core/config/reader.h"
#include "optim/matrix/subspace.h"
#include "tests/support/update_replay.h"

namespace strata {
namespace {

using testing::Played;
using testing::relative;

class Subspace : public testing::Seeded {};
class Galore : public testing::Seeded {};

const at::TensorOptions kDoubles = at::TensorOptions().dtype(at::kDouble);

GaloreConfig small(const std::string& type = "std") {
  return {.proj_type = type, .rank = 8, .update_proj_gap = 4};
}

// Singular values 1, 1/2, 1/4, ... : well apart.
Tensor decaying(int64_t p, int64_t q) {
  const int64_t n = std::min(p, q);
  const Tensor u = std::get<0>(at::linalg_qr(at::randn({p, n}, kDoubles)));
  const Tensor v = std::get<0>(at::linalg_qr(at::randn({q, n}, kDoubles)));
  return (u * at::linspace(0, 1 - n, n, kDoubles).exp2()).mm(v.t()).contiguous();
}

TEST_F(Subspace, EveryMethodFindsTheSingularVectors) {
  const Rng random(1, "galore", "w");
  for (const auto& [p, q] :
       std::vector<std::pair<int64_t, int64_t>>{{12, 12}, {13, 30}, {30, 13}}) {
    const Tensor x = decaying(p, q);
    const Tensor wanted = std::get<0>(at::linalg_svd(x, false)).slice(1, 0, 3);
    for (const char* name : {"gram", "full", "randomized"}) {
      const Tensor u = leading_vectors(x, 3, parse_subspace_method(name), random);
      ASSERT_TRUE(u.defined());
      ASSERT_EQ(u.sizes(), wanted.sizes());
      for (int k = 0; k < 3; ++k) {
        const double bound = name == std::string("randomized") ? 1e-5 : 1e-12;
        EXPECT_NEAR(u.select(1, k).dot(wanted.select(1, k)).abs().item<double>(), 1,
                    bound * bound + 1e-13)
            << name;
        const Tensor column = u.select(1, k);
        EXPECT_GT(column[column.abs().argmax().item<int64_t>()].item<double>(), 0) << name;
        const double sign = column.dot(wanted.select(1, k)).sign().item<double>();
        EXPECT_LE((column - sign * wanted.select(1, k)).norm().item<double>(), bound) << name;
      }
    }
  }
}

TEST_F(Subspace, TheFirstOfEqualEntriesIsPositive) {
  const Rng random(1, "galore", "w");
  const Tensor x = testing::matrix(2, 2, {1, -1, -1, 1});
  for (const char* name : {"gram", "full"}) {
    const Tensor u = leading_vectors(x, 1, parse_subspace_method(name), random);
    EXPECT_NEAR(u[0][0].abs().item<double>(), std::sqrt(.5), 1e-15);
    EXPECT_NEAR(u[0][0].item<double>(), -u[1][0].item<double>(), 1e-15);
  }
}

TEST_F(Subspace, ThereIsNoneOfZerosAndOfNan) {
  const Rng random(1, "galore", "w");
  Tensor x = at::zeros({5, 7}, kDoubles);
  for (const char* name : {"gram", "full", "randomized"}) {
    EXPECT_FALSE(leading_vectors(x, 1, parse_subspace_method(name), random).defined());
  }
  x = at::randn({5, 7}, kDoubles);
  x[2][3].fill_(std::numeric_limits<double>::quiet_NaN());
  for (const char* name : {"gram", "full", "randomized"}) {
    EXPECT_FALSE(leading_vectors(x, 1, parse_subspace_method(name), random).defined());
  }
}

// Rank 1 in a matrix of rank 1 (and a rank of 3 asked for): columns stay orthonormal.
TEST_F(Subspace, ColumnsAreOrthonormalWhereTheRankIsSmaller) {
  const Rng random(1, "galore", "w");
  for (const auto& [p, q] :
       std::vector<std::pair<int64_t, int64_t>>{{20, 12}, {12, 20}, {12, 12}}) {
    const Tensor x = at::randn({p, 1}, kDoubles) * at::randn({1, q}, kDoubles);
    for (const char* name : {"gram", "full", "randomized"}) {
      const Tensor u = leading_vectors(x, 3, parse_subspace_method(name), random);
      ASSERT_TRUE(u.defined()) << name;
      EXPECT_LE((u.t().mm(u) - at::eye(3, kDoubles)).abs().max().item<double>(), 1e-12) << name;
    }
  }
}

TEST_F(Galore, GoldenTrace) {
  testing::expect_trace(*make_galore({.rank = 1, .update_proj_gap = 2}),
                        {{0.501313974322, -0.252126055113, 0.098685755677, 0.302126491984},
                         {0.500944772557, -0.251528674109, 0.098294321896, 0.302759845147},
                         {0.502287643506, -0.252496560727, 0.098609568908, 0.302532627956},
                         {0.503232082118, -0.253177273564, 0.099465216699, 0.301915911922}});
}

// Weights and projectors, by every exact way to find the subspace.
TEST_F(Galore, FollowsTheAuthorsCode) {
  for (const std::string type : {"std", "left", "right"}) {
    for (const std::string svd : {"gram", "full"}) {
      GaloreConfig c = small(type);
      c.svd = svd;
      if (type == "right") c.weight_decay = .1;
      const auto check = [](const io::SafetensorsReader& in, const std::string& name, int64_t step,
                            Played& played) {
        const std::string key = "proj." + name + "." + std::to_string(step / 4) + ".";
        const Tensor wanted =
            in.read(key + (in.contains(key + "left") ? "left" : "right")).to(at::kDouble);
        EXPECT_LE(relative(played.slot("projector"), wanted, wanted), 1e-9) << key;
      };
      testing::replay("galore-" + type, *make_galore(c), .01, type == "std" ? 3 : 2, check);
    }
  }
}

TEST_F(Galore, ShapesOfTheState) {
  const auto shapes = [](const std::string& type, Shape shape) {
    std::string all;
    GaloreConfig c{.proj_type = type, .rank = 2};
    for (const StateSlot& s : make_galore(c)->state_slots(shape, at::kFloat)) {
      EXPECT_FALSE(s.of_weights);
      all += s.name + "=" + std::to_string(s.shape[0]) + "x" + std::to_string(s.shape[1]) + " ";
    }
    return all;
  };
  EXPECT_EQ(shapes("std", {6, 4}), "m=6x2 v=6x2 projector=2x4 ");
  EXPECT_EQ(shapes("std", {4, 6}), "m=2x6 v=2x6 projector=4x2 ");
  EXPECT_EQ(shapes("std", {4, 4}), "m=4x2 v=4x2 projector=2x4 ");
  EXPECT_EQ(shapes("reverse_std", {6, 4}), "m=2x4 v=2x4 projector=6x2 ");
  EXPECT_EQ(shapes("reverse_std", {4, 6}), "m=4x2 v=4x2 projector=2x6 ");
  EXPECT_EQ(shapes("full", {4, 6}), "m=2x2 v=2x2 projector_left=4x2 projector_right=2x6 ");
  EXPECT_EQ(shapes("std", {1, 6}), "m=1x6 v=1x6 projector=1x1 ");
}

// With the projector forced to I, full rank and scale 1: Adam with eps before the correction.
TEST_F(Galore, IsAdamInAllDirections) {
  for (const std::string type : {"left", "right", "full"}) {
    const auto rule = make_galore(
        {.proj_type = type, .rank = 6, .update_proj_gap = 100, .scale = 1, .weight_decay = .1});
    Played played(*rule, at::randn({6, 6}, kDoubles));
    Tensor w = played.weights.clone(), m = at::zeros_like(w), v = at::zeros_like(w);
    for (int t = 0; t < 6; ++t) {
      // A first gradient of zeros leaves unit vectors.
      const Tensor g = t == 0 ? at::zeros({6, 6}, kDoubles) : at::randn({6, 6}, kDoubles);
      played.update(g * 4, .01, .25);
      m = .9 * m + .1 * g;
      v = .999 * v + .001 * g * g;
      const double step = std::sqrt(1 - std::pow(.999, t + 1)) / (1 - std::pow(.9, t + 1));
      w = (w - .01 * step * m / (v.sqrt() + 1e-6)) * (1 - .01 * .1);
      EXPECT_LE(relative(played.weights, w, w), 1e-14) << type << t;
    }
  }
}

// G = s u v^T: the first direction is scale sign(u_i) v_j, up to eps.
TEST_F(Galore, FirstDirectionOfRankOne) {
  const Tensor u = at::randn({9, 1}, kDoubles), v = at::randn({1, 5}, kDoubles);
  const auto rule = make_galore({.rank = 1, .eps = 1e-12});
  Played one(*rule, at::zeros({9, 5}, kDoubles));
  one.update(u * v, 1);
  EXPECT_LE(relative(one.weights, -.25 * u.sign() * (v / v.norm()), one.weights), 1e-6);
}

// In all directions, m says the same after any number of refreshes.
TEST_F(Galore, RotateKeepsWhatTheMomentSays) {
  for (const std::string type : {"left", "right", "full"}) {
    GaloreConfig c = small(type);
    c.rank = 6;
    c.update_proj_gap = 1;
    c.on_refresh = "rotate";
    const auto rule = make_galore(c);
    Played played(*rule, at::zeros({6, 6}, kDoubles));
    Tensor moment = at::zeros({6, 6}, kDoubles);
    for (int t = 0; t < 4; ++t) {
      const Tensor g = at::randn({6, 6}, kDoubles);
      played.update(g, .01);
      moment = .9 * moment + .1 * g;
      Tensor back = played.slot("m");
      if (type == "left") back = played.slot("projector").mm(back);
      if (type == "right") back = back.mm(played.slot("projector"));
      if (type == "full") {
        back = played.slot("projector_left").mm(back).mm(played.slot("projector_right"));
      }
      EXPECT_LE(relative(back, moment, moment), 1e-12) << type << t;
    }
  }
}

// After a reset everything is as in a run that begins there.
TEST_F(Galore, ResetBeginsAnew) {
  GaloreConfig c = small();
  c.on_refresh = "reset";
  const auto rule = make_galore(c);
  Played one(*rule, at::randn({10, 12}, kDoubles));
  for (int t = 0; t < 4; ++t) one.update(at::randn({10, 12}, kDoubles), .01);
  Played other(*rule, one.weights);
  for (int t = 0; t < 3; ++t) {
    const Tensor g = at::randn({10, 12}, kDoubles);
    one.update(g, .01);
    other.update(g, .01);
    EXPECT_TRUE(one.weights.equal(other.weights)) << t;
  }
}

TEST_F(Galore, NanNeverEntersAProjector) {
  for (const std::string type : {"std", "full"}) {
    GaloreConfig c = small(type);
    c.rank = 3;
    c.update_proj_gap = 2;
    const auto rule = make_galore(c);
    Played played(*rule, at::randn({6, 8}, kDoubles));
    for (int t = 0; t < 2; ++t) played.update(at::randn({6, 8}, kDoubles), .01);
    const Tensor before = played.state[2].clone(), last = played.state.back().clone();
    Tensor bad = at::randn({6, 8}, kDoubles);
    bad[1][2].fill_(std::numeric_limits<double>::infinity());
    played.update(bad, .01);
    EXPECT_TRUE(before.equal(played.state[2])) << type;
    EXPECT_TRUE(last.equal(played.state.back())) << type;
    played.updates = 0;  // and not into a first one
    played.update(bad, .01);
    EXPECT_TRUE(played.state[2].equal(at::eye(6, 3, kDoubles))) << type;
  }
}

// Vectors as matrices, zeros, a rank above the smaller side, 16-bit copies, fp32.
TEST_F(Galore, EdgeCases) {
  for (const std::string type : {"std", "reverse_std", "full"}) {
    const auto rule =
        make_galore({.proj_type = type, .rank = 5, .update_proj_gap = 2, .weight_decay = .1});
    for (const auto& [p, q] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 9}, {9, 1}, {1, 1}, {33, 7}, {3, 17}}) {
      for (const bool zero : {true, false}) {
        const Tensor start = at::randn({p, q}, kDoubles).to(at::kFloat);
        Played played(*rule, start);
        Tensor rounded = at::zeros({p, q}, at::TensorOptions().dtype(at::kBFloat16));
        for (int t = 0; t < 5; ++t) {
          const Tensor g = zero ? at::zeros({p, q}, start.options())
                                : at::randn({p, q}, kDoubles).to(at::kFloat);
          played.update(g, .01, 1, rounded);
          EXPECT_TRUE(rounded.equal(played.weights.to(at::kBFloat16)));
          EXPECT_TRUE(std::isfinite(played.weights.sum().item<float>())) << type << p << q;
        }
        if (zero) {
          EXPECT_LE(relative(played.weights, start * std::pow(1 - 1e-3, 5), start), 1e-6);
        } else {
          EXPECT_FALSE(played.weights.equal(start));
        }
      }
    }
  }
}

// Samples come from the matrix's name, its number within the parameter and the update alone.
TEST_F(Galore, SamplesOfMatricesDiffer) {
  const auto rule = make_galore({.rank = 4, .svd = "randomized"});
  const auto projector = [&](std::string_view name, int64_t index) {
    Played played(*rule, testing::normal({24, 40}, 1));
    const Tensor grad = testing::normal({24, 4}, 2).mm(testing::normal({4, 40}, 3)) +
                        .01 * testing::normal({24, 40}, 4);
    Piece one = played.piece(grad, .01);
    one.name = name;
    one.index = index;
    rule->update({&one, 1}, 0);
    return played.slot("projector").clone();
  };
  const Tensor first = projector("a", 0);
  EXPECT_TRUE(first.equal(projector("a", 0)));
  EXPECT_FALSE(first.equal(projector("a", 1)));
  EXPECT_FALSE(first.equal(projector("b", 0)));
  // They are samples of one subspace.
  EXPECT_LE(relative(projector("a", 1), first, first), 1e-6);
}

TEST_F(Galore, ReadsItsKeysFromARunFile) {
  ConfigReader reader;
  reader.add_ini("[optim]\nrank = 0\nupdate_proj_gap = 5\nsvd = gram\n", "run.ini");
  reader.begin_section("optim", "");
  EXPECT_EQ(rule_registry().make("galore", reader)->name(), "galore");
  reader.end_section();
  ASSERT_EQ(reader.problems().size(), 1U);
  EXPECT_NE(reader.problems()[0].find("optim.rank"), std::string::npos);
}

}  // namespace
}  // namespace strata
