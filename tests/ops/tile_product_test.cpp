#include "core/ops/tile_product.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/rng.h"
#include "core/text.h"

namespace strata {
namespace tile_product_test {

using ops::tile_product_out;

Tensor drawn(const Shape& shape, uint64_t seed) {
  Tensor x = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
  Rng(seed, "test", "tiles").fill_normal(0, x.numel(), x.mutable_data_ptr<float>());
  return x;
}

double error(const Tensor& got, const Tensor& wanted) {
  return ((got.to(at::kDouble) - wanted).norm() / wanted.norm()).item<double>();
}

// Every way operands can lie, sizes that do not fill tiles, several blocks and steps of k. On
// processors without the unit there is nothing to compare, and nothing may take it.
TEST(TileProduct, IsTheProduct) {
  if (!ops::has_tile_product()) {
    EXPECT_FALSE(ops::takes_tile_product(drawn({512, 512}, 1), drawn({512, 512}, 1)));
    return;
  }
  for (const auto& [M, K, N] :
       {std::tuple(1, 1, 1), {17, 33, 15}, {64, 64, 64}, {400, 300, 70}, {31, 1100, 420}}) {
    for (const int layout : {0, 1, 2, 3}) {
      const Tensor a = layout & 1 ? drawn({K, M}, 2).t() : drawn({M, K}, 2);
      const Tensor b = layout & 2 ? drawn({N, K}, 3).t() : drawn({K, N}, 3);
      const Tensor wanted = a.to(at::kDouble).mm(b.to(at::kDouble));
      const std::string what = cat(M, " ", K, " ", N, ", layout ", layout);
      Tensor to = at::empty({M, N}, a.options());
      tile_product_out(to, a, b);
      EXPECT_LE(error(to, wanted), 6e-7) << what;
      // alpha, beta, a part of a wider matrix.
      Tensor wide = drawn({M, N + 5}, 4);
      const Tensor part = wide.narrow(1, 3, N), before = part.clone().to(at::kDouble);
      tile_product_out(part, a, b, {.alpha = -2, .beta = .5}, part);
      EXPECT_LE(error(part, -2 * wanted + .5 * before), 6e-7) << what;
    }
  }
}

TEST(TileProduct, SymmetricOnesAreSymmetric) {
  if (!ops::has_tile_product()) return;
  for (const auto& [m, k] : {std::pair(5, 9), {100, 65}, {450, 130}}) {
    const Tensor x = drawn({m, k}, 5);
    const Tensor wanted = x.to(at::kDouble).mm(x.to(at::kDouble).t());
    Tensor to = at::empty({m, m}, x.options());
    tile_product_out(to, x, x.t(), {.symmetric = true});
    EXPECT_LE(error(to, wanted), 6e-7) << m;
    EXPECT_TRUE(to.equal(to.t())) << m;
  }
}

TEST(TileProduct, BitsDoNotDependOnThreadsNorOnOtherRows) {
  if (!ops::has_tile_product()) return;
  const Tensor a = drawn({900, 500}, 6), b = drawn({500, 410}, 7);
  Tensor one = at::empty({900, 410}, a.options()), three = at::empty_like(one);
  Tensor some = at::empty({100, 410}, a.options());
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  tile_product_out(one, a, b);
  at::set_num_threads(3);
  tile_product_out(three, a, b);
  at::set_num_threads(before);
  EXPECT_TRUE(one.equal(three));
  tile_product_out(some, a.narrow(0, 70, 100), b);
  EXPECT_TRUE(some.equal(one.narrow(0, 70, 100)));
}

TEST(TileProduct, NotFiniteStaysSo) {
  if (!ops::has_tile_product()) return;
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Tensor a = drawn({70, 80}, 8);
    a[3][5].fill_(bad);
    Tensor to = at::empty({70, 90}, a.options());
    tile_product_out(to, a, drawn({80, 90}, 9));
    EXPECT_FALSE(to[3].isfinite().any().item<bool>());
    EXPECT_TRUE(to.narrow(0, 4, 66).isfinite().all().item<bool>());
  }
}

}  // namespace tile_product_test
}  // namespace strata
