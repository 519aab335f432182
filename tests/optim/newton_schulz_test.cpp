#include "optim/matrix/newton_schulz.h"

#include <ATen/Parallel.h>
#include <ATen/ops/diag_embed.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/logspace.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "core/error.h"
#include "optim/matrix/newton_schulz_slabs.h"
#include "optim/matrix/symmetric_product.h"
#include "tests/support/update_replay.h"

namespace strata {
namespace newton_schulz_test {

using testing::normal;

at::TensorOptions fp64() { return at::TensorOptions().dtype(at::kDouble); }

double relative_error(const Tensor& given, const Tensor& wanted) {
  return testing::relative(given.to(at::kDouble), wanted.to(at::kDouble), wanted.to(at::kDouble));
}

NewtonSchulz with(const std::string& set, double eps, int64_t steps = 0) {
  NewtonSchulz how = newton_schulz_set(set, steps);
  how.eps = eps;
  return how;
}

Tensor ns(const Tensor& x, const NewtonSchulz& how) { return newton_schulz(x, how, at::kDouble); }

// Singular values over four decades.
Tensor ill_conditioned(int64_t rows, int64_t cols) {
  const int64_t m = std::min(rows, cols);
  const Tensor u = std::get<0>(at::linalg_qr(normal({rows, m}, 21))),
               v = std::get<0>(at::linalg_qr(normal({cols, m}, 22)));
  return (u * at::logspace(0, -4, m, 10, fp64())).mm(v.t());
}

// One slab is the whole matrix; several are those of tests/layouts/matrix_rules_mpi_test.cpp.
TEST(NewtonSchulzSlabs, EqualTheWholeMatrix) {
  const auto whole = [](const Tensor&) {};
  for (const std::string set : {"keller5", "pe8", "cubic5"}) {
    for (const auto& [m, n] : {std::pair(5, 7), {16, 16}, {12, 40}, {1, 9}}) {
      const Tensor a = normal({m, n}, 31), b = normal({m, n}, 32), zero = at::zeros_like(a);
      std::vector<Slab> slabs{{a.clone(), n}, {b.clone(), n}, {zero.clone(), n}};
      int64_t summed = 0;
      const NewtonSchulz how = newton_schulz_set(set);
      newton_schulz_slabs(slabs, how, at::kDouble, [&](const Tensor& t) { summed += t.numel(); });
      EXPECT_EQ(summed, 3 + 3 * newton_schulz_slabs_elements(m, n, how)) << set << m << n;
      EXPECT_LE(relative_error(slabs[0].x, ns(a, how)), 1e-12) << set << " " << m << " x " << n;
      EXPECT_LE(relative_error(slabs[1].x, ns(b, how)), 1e-12) << set << " " << m << " x " << n;
      EXPECT_EQ(slabs[2].x.abs().max().item<double>(), 0);
      std::vector<Slab> narrow{{a.to(at::kFloat), n}};
      newton_schulz_slabs(narrow, how, at::kBFloat16, whole);
      EXPECT_LE(relative_error(narrow[0].x, newton_schulz_batch(a.to(at::kFloat).unsqueeze(0), how,
                                                                at::kBFloat16)[0]),
                5e-2);
    }
  }
}

TEST(SymmetricProduct, IsTheProduct) {
  for (const auto& [m, k] :
       {std::pair(1, 1), {1, 300}, {7, 5}, {96, 257}, {97, 96}, {300, 40}, {513, 70}}) {
    const Tensor x = normal({m, k}, 1), xt = x.t().contiguous();
    const Tensor expected = x.mm(x.t());
    EXPECT_LE(relative_error(symmetric_product(x, x.t()), expected), 1e-14) << m << " " << k;
    EXPECT_LE(relative_error(symmetric_product(xt.t(), xt), expected), 1e-14) << m << " " << k;
    const Tensor narrow = x.to(at::kFloat);
    EXPECT_LE(relative_error(symmetric_product(narrow, narrow.t()), expected), 1e-6);
    const Tensor part = normal({m + 3, k + 2}, 4).narrow(0, 1, m).narrow(1, 2, k);
    EXPECT_LE(relative_error(symmetric_product(part, part.t()), part.mm(part.t())), 1e-14);
    Tensor to = at::eye(m, fp64()) * 3 + 1;
    symmetric_product_out(to, x, x.t(), true);
    EXPECT_LE(relative_error(to, expected + at::eye(m, fp64()) * 3 + 1), 1e-14) << m << " " << k;
    EXPECT_EQ((to - to.t()).abs().max().item<double>(), 0);
  }
}

TEST(SymmetricProduct, BitsDoNotDependOnThreads) {
  const Tensor x = normal({611, 333}, 3, at::kFloat);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor alone = symmetric_product(x, x.t());
  at::set_num_threads(3);
  const Tensor together = symmetric_product(x, x.t());
  at::set_num_threads(before);
  EXPECT_TRUE(alone.equal(together));
}

TEST(NewtonSchulz, ValuesByHand) {
  const auto on = [](std::initializer_list<double> v, int64_t rows, int64_t cols) {
    return at::tensor(at::ArrayRef<double>(v), fp64()).view({rows, cols});
  };
  const Tensor wide = on({1, 2, 3, 4, 5, 6}, 2, 3), tall = on({1, 2, 3, 4, 5, 6}, 3, 2);
  const auto expect = [](const Tensor& got, const Tensor& expected) {
    EXPECT_LE((got - expected).abs().max().item<double>(), 1e-11);
  };
  expect(ns(wide, with("keller5", 1e-7)), on({-.568290110143, .057741943116, .683773996374,
                                              .563354697507, .405612831033, .247870964559},
                                             2, 3));
  expect(ns(wide, with("quintic5", 1e-300)), on({-.591517914989, .110996900850, .813511716688,
                                                 .707256075759, .560561911992, .413867748226},
                                                2, 3));
  expect(ns(wide, with("exact12", 1e-300)), on({-.577791826825, .115116695104, .808025217034,
                                                .706746020992, .565757439051, .424768857110},
                                               2, 3));
  expect(ns(tall, with("keller5", 1e-7)), on({-.467518565383, .573473307070, .072432287513,
                                              .409452622310, .612383140410, .245431937549},
                                             3, 2));
  expect(ns(wide.t().contiguous(), with("keller5", 1e-7)), ns(wide, with("keller5", 1e-7)).t());
}

TEST(NewtonSchulz, OneSingularValue) {
  struct Case {
    const char* set;
    double one, root_half, half, root_eighth, eighth, at_6, at_8;
  };
  for (const Case& c : {Case{"keller5", .6964364095, 1.1081111157, .7654385305, 1.0669679485,
                             .6881398558, .7228761686, 1.1192039299},
                        Case{"quintic5", .9783455603, 1.0256120434, .9858693541, .9861307147,
                             .9842717286, 1.0186286858, 1.0056321944},
                        Case{"pe5", .9035374202, 1.1347714950, 1.0864030486, 1.1181659000,
                             .9081683336, .9467875029, .8782865415}}) {
    const NewtonSchulz how = with(c.set, 1e-300);
    const auto identity = [&](int64_t k) { return at::eye(k, fp64()); };
    for (const double size : {.1, 7.}) {
      EXPECT_LE(relative_error(ns(identity(2) * size, how), identity(2) * c.root_half), 1e-9);
      EXPECT_LE(relative_error(ns(identity(4) * size, how), identity(4) * c.half), 1e-9);
      EXPECT_LE(relative_error(ns(identity(8) * size, how), identity(8) * c.root_eighth), 1e-9);
      EXPECT_LE(relative_error(ns(identity(64) * size, how), identity(64) * c.eighth), 1e-9);
    }
    const Tensor row = normal({1, 7}, 1), column = normal({9, 1}, 2);
    EXPECT_LE(relative_error(ns(row, how), row / row.norm() * c.one), 1e-9);
    EXPECT_LE(relative_error(ns(column, how), column / column.norm() * c.one), 1e-9);
    EXPECT_LE(relative_error(ns(column.mm(row), how),
                             column.mm(row) / (row.norm() * column.norm()) * c.one),
              1e-9);
    const Tensor two = ns(at::diag_embed(at::tensor({3., 4.}, fp64())), how);
    EXPECT_NEAR(two[0][0].item<double>(), c.at_6, 1e-9);
    EXPECT_NEAR(two[1][1].item<double>(), c.at_8, 1e-9);
  }
  EXPECT_NEAR(ns(at::eye(1, fp64()), with("cans5", 1e-300)).item<double>(), 1.0050694250, 1e-9);
}

TEST(NewtonSchulz, Symmetries) {
  for (const auto& [rows, cols] : {std::pair(13, 29), {20, 21}}) {
    const NewtonSchulz how = with("keller5", 1e-20);
    const Tensor x = normal({rows, cols}, 5), y = ns(x, how);
    EXPECT_LE(relative_error(ns(x.t(), how), y.t()), 1e-13);
    EXPECT_LE(relative_error(ns(-x, how), -y), 1e-13);
    for (const double scale : {1e-6, 1e6}) {
      EXPECT_LE(relative_error(ns(x * scale, how), y), 1e-12);
      const Tensor narrow = newton_schulz((x * scale).to(at::kFloat), how, at::kFloat);
      EXPECT_LE(relative_error(narrow, newton_schulz(x.to(at::kFloat), how, at::kFloat)), 1e-6);
    }
    const Tensor left = std::get<0>(at::linalg_qr(normal({rows, rows}, 6))),
                 right = std::get<0>(at::linalg_qr(normal({cols, cols}, 7)));
    EXPECT_LE(relative_error(ns(left.mm(x).mm(right), how), left.mm(y).mm(right)), 1e-12);
    // Rows and columns of zeros change nothing.
    Tensor padded = at::zeros({rows + 3, cols + 5}, fp64());
    padded.narrow(0, 0, rows).narrow(1, 0, cols).copy_(x);
    const Tensor z = ns(padded, how);
    EXPECT_LE(relative_error(z.narrow(0, 0, rows).narrow(1, 0, cols), y), 1e-13);
    EXPECT_EQ(z.narrow(0, rows, 3).abs().max().item<double>(), 0);
    EXPECT_EQ(z.narrow(1, cols, 5).abs().max().item<double>(), 0);
  }
}

TEST(NewtonSchulz, ZeroAndTinyGradients) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const Tensor x = at::zeros({5, 7}, at::TensorOptions().dtype(at::kFloat));
    EXPECT_EQ(newton_schulz(x, with("keller5", 1e-20), type).abs().max().item<double>(), 0);
  }
  // Squares of such entries are zero in fp32.
  const Tensor tiny = (normal({6, 9}, 8) * 1e-26).to(at::kFloat);
  const NewtonSchulz how = with("keller5", 1e-30);
  EXPECT_LE(relative_error(newton_schulz(tiny, how, at::kFloat),
                           newton_schulz(tiny * 1e26, how, at::kFloat)),
            1e-3);
}

TEST(NewtonSchulz, ClampAndAddDiffer) {
  const Tensor x = normal({4, 6}, 9) * 1e-3;
  NewtonSchulz add = with("keller5", 1e-3), clamp = add;
  clamp.clamp = true;
  const double norm = x.norm().item<double>();
  ASSERT_GT(norm, 1e-3);
  EXPECT_LE(relative_error(ns(x, clamp), ns(x, with("keller5", 1e-300))), 1e-13);
  EXPECT_GE(relative_error(ns(x, add), ns(x, clamp)), 1e-3);
  // Below the floor both shrink the matrix: by f at a small value, and not by its own norm.
  const Tensor row = at::eye(1, fp64()) * 1e-4;
  EXPECT_NEAR(ns(row, clamp).item<double>(), compose(clamp.steps, 1e-4 / 1e-3), 1e-12);
  EXPECT_NEAR(ns(row, add).item<double>(), compose(add.steps, 1e-4 / 1.1e-3), 1e-12);
}

// Singular values end where the bands say.
TEST(NewtonSchulz, Bands) {
  struct Case {
    const char* set;
    double least, most;
  };
  const Tensor x = normal({40, 64}, 10), values = at::linalg_svdvals(x / x.norm());
  ASSERT_GE(values.min().item<double>(), .01);
  for (const Case& c :
       {Case{"keller5", .6818, 1.1344}, Case{"quintic5", .9778, 1.0318}, Case{"pe5", .8589, 1.1411},
        Case{"pe8", .9999, 1.0001}, Case{"cans5", .8844, 1.1198}, Case{"dsv4_10", .9999, 1.0006},
        Case{"cubic5", .7741, 1.3001}, Case{"exact12", .99999, 1.00001}}) {
    const Tensor out = at::linalg_svdvals(ns(x, newton_schulz_set(c.set)));
    EXPECT_GE(out.min().item<double>(), c.least) << c.set;
    EXPECT_LE(out.max().item<double>(), c.most) << c.set;
    double least = 10, most = 0;
    for (double sigma = .01; sigma <= 1; sigma *= 1.001) {
      const auto set = newton_schulz_set(c.set);
      const double f = compose(set.steps, sigma / set.pre);
      least = std::min(least, f);
      most = std::max(most, f);
    }
    EXPECT_GE(least, c.least - 1e-4) << c.set;
    EXPECT_LE(most, c.most + 1e-4) << c.set;
  }
}

// Symmetric products and the Gram iteration against the plain form.
TEST(NewtonSchulz, FastFormsAreThePlainOne) {
  for (const std::string& set : newton_schulz_sets()) {
    const NewtonSchulz how = newton_schulz_set(set);
    for (const auto& [rows, cols] : {std::pair(200, 200), {260, 131}, {100, 210}, {33, 200}}) {
      const bool gram = std::max(rows, cols) >= 2 * std::min(rows, cols);
      for (const bool hard : {false, true}) {
        const Tensor x = hard ? ill_conditioned(rows, cols) : normal({rows, cols}, 11);
        const Tensor plain = newton_schulz_batch(x.unsqueeze(0), how, at::kDouble)[0];
        EXPECT_LE(relative_error(ns(x, how), plain), 1e-9) << set << " " << rows << " " << cols;
        const Tensor narrow = newton_schulz(x.to(at::kFloat), how, at::kFloat);
        EXPECT_LE(relative_error(narrow, plain),
                  gram || (hard && how.steps.size() > 5) ? 2e-4 : 2e-5)
            << set << " " << rows << " x " << cols << (hard ? ", four decades" : "");
      }
    }
  }
}

TEST(NewtonSchulz, SixteenBitsAreNear) {
  const NewtonSchulz how = newton_schulz_set("keller5");
  const Tensor x = normal({64, 96}, 12, at::kFloat);
  const Tensor exact = ns(x.to(at::kDouble), how);
  for (const double size : {1e-15, 1., 1e15}) {
    EXPECT_LE(relative_error(newton_schulz(x * size, how, at::kBFloat16), exact), 2e-2);
    EXPECT_LE(relative_error(newton_schulz(x * size, how, at::kHalf), exact), 3e-3);
  }
  // Large enough for products in parts.
  for (const auto& [rows, cols] : {std::pair(530, 600), {601, 513}}) {
    const Tensor large = normal({rows, cols}, 13, at::kFloat);
    EXPECT_LE(relative_error(newton_schulz(large, how, at::kBFloat16),
                             newton_schulz(large, how, at::kFloat)),
              2e-2);
  }
}

TEST(NewtonSchulzSets, PolarExpressIsDerived) {
  const auto same = [](const std::vector<OddPolynomial>& got,
                       const std::vector<OddPolynomial>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      for (size_t k = 0; k < 3; ++k)
        EXPECT_NEAR(got[i][k], expected[i][k], 1e-12 * std::max(1., std::abs(expected[i][k])));
    }
  };
  same(polar_express(1e-3, 5, 2e-2, .02), newton_schulz_set("pe5").steps);
}

TEST(NewtonSchulzSets, StepsAndNames) {
  EXPECT_EQ(newton_schulz_set("keller5", 7).steps.size(), 7u);
  EXPECT_EQ(newton_schulz_set("pe8", 10).steps.back(), newton_schulz_set("pe8").steps.back());
  EXPECT_EQ(newton_schulz_set("pe8", 3).steps[2], newton_schulz_set("pe8").steps[2]);
  EXPECT_NEAR(newton_schulz_set("pe8").steps[0][2], 17.300387312530933 / std::pow(1.01, 5), 1e-13);
  EXPECT_EQ(newton_schulz_set("dsv4_10").steps[8], (OddPolynomial{2, -1.5, .5}));
  EXPECT_THROW(newton_schulz_set("pe5", 6), ConfigError);
  EXPECT_THROW(newton_schulz_set("pe5", 4), ConfigError);
  try {
    newton_schulz_set("aol4");
    FAIL() << "aol4 is refused";
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("negative"), std::string::npos) << e.what();
  }
}

}  // namespace newton_schulz_test
}  // namespace strata
