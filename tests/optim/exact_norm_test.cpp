// The exact norm: the same bits however the gradient is cut, close to the fp64 sum, and NaN for
// what is not finite.
#include "optim/exact_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"

namespace strata {
namespace exact_norm_test_detail {

Tensor gradient(int64_t elements, double size) {
  Tensor g = at::empty({elements}, at::TensorOptions().dtype(at::kFloat));
  const Rng rng(5, "test", "gradient");
  for (int64_t i = 0; i < elements; ++i)
    g.data_ptr<float>()[i] = static_cast<float>(size * std::pow(rng.uniform(i) * 2 - 1, 5));
  return g;
}

std::vector<OwnedSlice> cut(const Tensor& g, int parts) {
  std::vector<OwnedSlice> out;
  for (int k = 0; k < parts; ++k) {
    const int64_t begin = g.numel() * k / parts, end = g.numel() * (k + 1) / parts;
    OwnedSlice s;
    s.update = s.norm = {begin, end};
    s.grad = g.narrow(0, begin, end - begin);
    out.push_back(s);
  }
  return out;
}

}  // namespace exact_norm_test_detail

using namespace exact_norm_test_detail;

TEST(ExactNorm, DoesNotDependOnTheCut) {
  auto job = make_self_communicator();
  for (const double size : {1.0, 3e-9, 7e11}) {
    const Tensor g = gradient(200'003, size);
    const double whole = exact_sum_of_squares(cut(g, 1), g.numel(), *job);
    EXPECT_NEAR(whole / g.to(at::kDouble).square().sum().item<double>(), 1, 1e-13);
    for (const int parts : {2, 3, 7, 64, 1000})
      EXPECT_EQ(exact_sum_of_squares(cut(g, parts), g.numel(), *job), whole) << parts;
    const Tensor backwards = g.flip(0);
    EXPECT_EQ(exact_sum_of_squares(cut(backwards, 5), g.numel(), *job), whole);
  }
}

TEST(ExactNorm, KnowsWhatIsNotFiniteAndWhatIsNothing) {
  auto job = make_self_communicator();
  Tensor g = gradient(100, 1);
  EXPECT_EQ(exact_sum_of_squares(cut(g * 0, 2), 100, *job), 0);
  g[70] = INFINITY;
  EXPECT_TRUE(std::isnan(exact_sum_of_squares(cut(g, 3), 100, *job)));
  g[70] = NAN;
  EXPECT_TRUE(std::isnan(exact_sum_of_squares(cut(g, 3), 100, *job)));
}

}  // namespace strata
