#include "optim/matrix/passes.h"

#include <ATen/ops/empty_like.h>
#include <gtest/gtest.h>

#include "tests/support/update_replay.h"

namespace strata {
namespace passes_test {

using testing::normal;
using testing::relative;

// Sizes below, at and above a register and a block of a thread.
const std::vector<Shape> kShapes{{1, 1}, {3, 5}, {16, 16}, {130, 257}, {300, 700}};

TEST(Passes, UpdateMomentumIsItsFormula) {
  for (const Shape& shape : kShapes) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const Tensor start = normal(shape, 1).to(type), g = normal(shape, 2).to(type);
      const double bound = type == at::kDouble ? 1e-15 : 2e-7;
      for (const bool nesterov : {false, true}) {
        Tensor m = start.clone();
        const Tensor got = update_momentum(m, g, .95, .02, nesterov);
        const Tensor expected = start.to(at::kDouble) * .95 + g.to(at::kDouble) * .02;
        EXPECT_LE(relative(m.to(at::kDouble), expected, expected), bound);
        const Tensor ahead = nesterov ? expected * .95 + g.to(at::kDouble) * .02 : expected;
        EXPECT_LE(relative(got.to(at::kDouble), ahead, ahead), bound);
        EXPECT_EQ(got.is_same(m), !nesterov);
        // Not dense: the same.
        Tensor turned = start.t().contiguous().t();
        const Tensor again = update_momentum(turned, g, .95, .02, nesterov);
        EXPECT_LE(relative(again.to(at::kDouble), ahead, ahead), bound);
      }
    }
  }
}

TEST(Passes, ScaledToRoundsOnce) {
  for (const Shape& shape : kShapes) {
    const Tensor x = normal(shape, 3).to(at::kFloat);
    const Tensor got = scaled_to(x, .37, at::kBFloat16);
    EXPECT_TRUE(got.equal((x * .37).to(at::kBFloat16)));
    EXPECT_TRUE(scaled_to(x.t(), .37, at::kBFloat16).equal(got.t()));
    EXPECT_TRUE(scaled_to(x, .37, at::kFloat).equal(x * .37));
  }
}

TEST(Passes, MoveWeightsIsItsFormula) {
  for (const Shape& shape : kShapes) {
    for (const auto& [type, of_d] : {std::pair(at::kFloat, at::kFloat),
                                     {at::kFloat, at::kBFloat16},
                                     {at::kFloat, at::kHalf},
                                     {at::kDouble, at::kDouble}}) {
      const Tensor start = normal(shape, 4).to(type), d = normal(shape, 5).to(of_d);
      const Tensor expected = (start.to(at::kDouble) * .9 - d.to(at::kDouble) * .01) * .8;
      const double bound = type == at::kDouble ? 1e-15 : 2e-7;
      for (const bool turned : {false, true}) {
        Tensor w = start.clone();
        const Tensor rounded =
            type == at::kFloat ? at::empty_like(w, w.options().dtype(at::kBFloat16)) : Tensor();
        move_weights(w, turned ? d.t().contiguous().t() : d, .01, .9, .8, rounded);
        EXPECT_LE(relative(w.to(at::kDouble), expected, expected), bound);
        EXPECT_TRUE(!rounded.defined() || rounded.equal(w.to(at::kBFloat16)));
      }
    }
  }
}

}  // namespace passes_test
}  // namespace strata
