// Ternary linear layers against worked examples and their invariances.
#include "core/ops/bit_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops/activation.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {
namespace bit_linear_detail {

Tensor numbers(std::initializer_list<double> values) {
  return at::tensor(std::vector<double>(values), at::kDouble);
}

void expect_near(const Tensor& got, const Tensor& wanted, double bound = 1e-12) {
  ASSERT_EQ(got.sizes(), wanted.sizes());
  EXPECT_LE((got - wanted).abs().max().item<double>(), bound) << got << wanted;
}

struct Example {
  Tensor x = numbers({0.5, -1, 2, 0.25}).view({1, 4}).requires_grad_();
  Tensor gain = numbers({1, 0.5, 2, 1}).requires_grad_();
  Tensor w = numbers({0.10, -0.02, 0.30, 0, -0.25, 0.05, 0.04, -0.12, 0.07, 0.20, -0.06, 0.15})
                 .view({3, 4})
                 .requires_grad_();
  double beta() const { return ops::absolute_sum(w) / 12; }
};

TEST(BitLinear, WorkedExample) {
  Example e;
  const ops::TernaryCodes codes = ops::ternary_codes(e.w, e.beta());
  EXPECT_NEAR(codes.scale, 0.113333333333333, 1e-14);
  expect_near(codes.codes_OI.to(at::kDouble),
              numbers({1, 0, 1, 0, -1, 0, 0, -1, 1, 1, -1, 1}).view({3, 4}));
  const ops::BitRows rows = ops::bit_rows(e.x.detach(), e.gain.detach(), {});
  EXPECT_NEAR(rows.rstd_N.item<double>(), 0.867721504603061, 1e-14);
  EXPECT_NEAR(1 / rows.scale_N.item<double>(), 36.590080839962624, 1e-12);
  expect_near(rows.q_NI, numbers({16, -16, 127, 8}).view({1, 4}), 0);

  const Tensor y = ops::bit_linear(e.x, e.gain, e.w, codes);
  expect_near(y.detach(),
              numbers({0.44292513967245, -0.07433708637859, -0.36858805329386}).view({1, 3}));
  y.backward(numbers({1, -0.5, 0.25}).view({1, 3}));
  expect_near(e.gain.grad(),
              numbers({0.08604904920647, -0.02458544263042, 0.14751265578252, 0.01843908197282}));
  expect_near(e.x.grad(),
              numbers({0.13565382266001, 0.08518127282108, 0.00173555277079, 0.05553419001479})
                  .view({1, 4}));
  expect_near(e.w.grad().select(0, 0),
              numbers({0.43727697869761, -0.43727697869761, 3.47088601841224, 0.21863848934880}));
}

// A rank that took the mean of its own rows would train another model.
TEST(BitLinear, MeansOfPartsAreOtherMeans) {
  const Example e;
  const Tensor top = e.w.detach().narrow(0, 0, 2), bottom = e.w.detach().narrow(0, 2, 1);
  EXPECT_NEAR(ops::absolute_sum(top) / 8, 0.11, 1e-14);
  EXPECT_NEAR(ops::absolute_sum(bottom) / 4, 0.12, 1e-14);
  EXPECT_EQ(ops::ternary_codes(bottom, 0.12).codes_OI.select(1, 2).item<int64_t>(), 0);
  EXPECT_EQ(ops::ternary_codes(bottom, e.beta()).codes_OI.select(1, 2).item<int64_t>(), -1);
}

TEST(BitLinear, SumsOfCodesAreIntegersInEveryForm) {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t in : {3, 64, 517}) {
      const Tensor x = normal({33, in}, "x", dtype), gain = normal({in}, "gain", at::kFloat);
      const Tensor w = normal({29, in}, "w", dtype);
      const auto codes =
          ops::ternary_codes(w, ops::absolute_sum(w) / static_cast<double>(w.numel()));
      const ops::BitRows rows = ops::bit_rows(x, gain, {});
      EXPECT_LE(rows.q_NI.abs().max().item<double>(), 127);
      EXPECT_TRUE(rows.q_NI.equal(rows.q_NI.round()));
      const Tensor exact = at::mm(rows.q_NI.to(at::kDouble), codes.codes_OI.to(at::kDouble).t());
      const Tensor fp32 = at::mm(rows.q_NI.to(at::kFloat), codes.codes_OI.to(at::kFloat).t());
      EXPECT_TRUE(fp32.to(at::kDouble).equal(exact));
      // In the working dtype and as eight-bit integers: the same sums, scaled alike.
      const Tensor a = ops::bit_product(rows, codes.codes_OI.to(dtype), codes.scale, dtype);
      EXPECT_TRUE(ops::multiplies_integers(x, codes, {}));
      const ops::BitRows whole = ops::bit_rows(x, gain, {}, {}, true);
      EXPECT_TRUE(whole.q_NI.to(dtype).equal(rows.q_NI));
      const Tensor b = ops::bit_product(whole, codes.codes_OI, codes.scale, dtype);
      if (dtype == at::kBFloat16) {
        EXPECT_LE(distance(a, b), 5e-3);  // a rounds the sums once more
      } else {
        EXPECT_TRUE(a.equal(b)) << dtype_name(dtype) << " " << in;
      }
    }
  }
}

TEST(BitLinear, PackedCodesComputeWhatTrainingComputes) {
  for (const int64_t in : {1, 4, 37, 128}) {
    const Tensor w = normal({9, in}, "w", at::kFloat), x = normal({6, in}, "x", at::kFloat);
    const auto codes = ops::ternary_codes(w, ops::absolute_sum(w) / static_cast<double>(w.numel()));
    const Tensor packed = ops::pack_codes(codes.codes_OI);
    EXPECT_EQ(packed.numel(), 9 * ((in + 3) / 4));
    const ops::TernaryCodes read{ops::unpack_codes(packed, in), codes.scale};
    EXPECT_TRUE(read.codes_OI.equal(codes.codes_OI));
    const Tensor gain = normal({in}, "gain", at::kFloat);
    EXPECT_TRUE(ops::bit_linear(x, gain, w, read).equal(ops::bit_linear(x, gain, w, codes)));
  }
}

TEST(BitLinear, CodesDoNotDependOnScaleNorOnTheCut) {
  const Tensor x = normal({50, 96}, "x"), gain = normal({96}, "gain"), w = normal({64, 96}, "w");
  const auto y = [&](const Tensor& rows, const Tensor& weight) {
    const auto codes =
        ops::ternary_codes(weight, ops::absolute_sum(weight) / static_cast<double>(weight.numel()));
    return ops::bit_linear(rows, gain, weight, codes, {.eps = 1e-12});
  };
  EXPECT_LE(distance(y(x * 4, w), y(x, w)), 1e-11);
  EXPECT_LE(distance(y(x, w * 8), y(x, w) * 8), 1e-14);
  // Three parts of each row, statistics put together: the same bits in the codes.
  const ops::BitRows whole = ops::bit_rows(x, gain, {});
  Tensor squares, largest;
  std::vector<std::pair<int64_t, int64_t>> parts = {{0, 32}, {32, 16}, {48, 48}};
  for (const auto& [begin, size] : parts) {
    const Tensor part = x.narrow(1, begin, size);
    const Tensor s = part.square().sum(1), m = (part * gain.narrow(0, begin, size)).abs().amax(1);
    squares = squares.defined() ? squares + s : s;
    largest = largest.defined() ? at::stack({largest, m}).amax(0) : m;
  }
  for (const auto& [begin, size] : parts) {
    ops::FeatureGroup group;
    group.width = 96;
    group.statistics = [&](Tensor& s, Tensor& m) { s = squares, m = largest; };
    const ops::BitRows own =
        ops::bit_rows(x.narrow(1, begin, size), gain.narrow(0, begin, size), {}, group);
    EXPECT_TRUE(own.q_NI.equal(whole.q_NI.narrow(1, begin, size)));
  }
}

// Row-cut: partial products add up, and gradients of a part are the part of the gradients.
TEST(BitLinear, PartsOfRowsAddUp) {
  const auto leaf = [](const Tensor& t) { return t.detach().clone().requires_grad_(); };
  const Tensor x = normal({20, 24}, "x"), gain = normal({24}, "gain"), w = normal({10, 24}, "w");
  const Tensor g = normal({20, 10}, "g");
  const auto codes = ops::ternary_codes(w, ops::absolute_sum(w) / 240);
  Tensor xs = leaf(x), gains = leaf(gain), ws = leaf(w);
  const Tensor whole = ops::bit_linear(xs, gains, ws, codes);
  whole.backward(g);
  // Forward sums first, then the backward's; both parts run the same code with what the other adds.
  const Tensor squares = x.square().sum(1), largest = (x * gain).abs().amax(1);
  const Tensor rstd = (squares / 24 + 1e-6).rsqrt();
  const Tensor dy = at::mm(g, codes.codes_OI.to(at::kDouble)) * codes.scale;
  const Tensor dots = (dy * gain * x).sum(1) * rstd;
  Tensor sum = at::zeros({20, 10}, x.options());
  for (const int64_t begin : {0, 8}) {
    const int64_t size = begin == 0 ? 8 : 16;
    ops::FeatureGroup group;
    group.width = 24;
    group.statistics = [&](Tensor& s, Tensor& m) { s = squares.clone(), m = largest.clone(); };
    group.sum = [&](Tensor& s) { s = dots.clone(); };
    Tensor xp = leaf(x.narrow(1, begin, size)), gp = leaf(gain.narrow(0, begin, size)),
           wp = leaf(w.narrow(1, begin, size));
    const Tensor y = ops::bit_linear(
        xp, gp, wp, {codes.codes_OI.narrow(1, begin, size).contiguous(), codes.scale}, {}, group);
    y.backward(g);
    sum += y.detach();
    EXPECT_LE(distance(xp.grad(), xs.grad().narrow(1, begin, size)), 1e-13);
    EXPECT_LE(distance(gp.grad(), gains.grad().narrow(0, begin, size)), 1e-13);
    EXPECT_LE(distance(wp.grad(), ws.grad().narrow(1, begin, size)), 1e-13);
  }
  EXPECT_LE(distance(sum, whole.detach()), 1e-13);
}

TEST(BitLinear, RoundingModes) {
  // Largest 127, so that codes are the values themselves.
  const Tensor x = numbers({127, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49, -2.51, 63.25}).view({1, 9});
  const Tensor ones = numbers({1, 1, 1, 1, 1, 1, 1, 1, 1});
  const auto q = [&](ops::ActRound round) { return ops::bit_rows(x, ones, {.round = round}).q_NI; };
  expect_near(q(ops::ActRound::HalfEven), numbers({127, 0, 2, 2, 0, -2, 0, -3, 63}).view({1, 9}),
              0);
  expect_near(q(ops::ActRound::HalfAway), numbers({127, 1, 2, 3, -1, -2, 0, -3, 63}).view({1, 9}),
              0);
  expect_near(q(ops::ActRound::None), x, 1e-12);
}

TEST(BitLinear, NonzeroPartOfGaussianWeights) {
  const Tensor w = normal({1000, 1000}, "w", at::kFloat);
  const auto codes = ops::ternary_codes(w, ops::absolute_sum(w) / 1e6);
  EXPECT_NEAR(static_cast<double>(codes.codes_OI.count_nonzero().item<int64_t>()) / 1e6, 0.690,
              0.005);
}

TEST(BitLinear, EmptyAndSmallRows) {
  Tensor x = at::zeros({3, 8}, at::kDouble);
  x[1].fill_(1e-12);  // below the floor of 1e-5: the literal form
  x[2][3] = std::nan("");
  const Tensor gain = numbers({1, 1, 1, 1, 1, 1, 1, 1});
  const ops::BitRows rows = ops::bit_rows(x, gain, {});
  EXPECT_EQ(rows.q_NI[0].abs().max().item<double>(), 0);
  EXPECT_NEAR(rows.scale_N[0].item<double>(), 1e-5 / 127, 1e-20);
  EXPECT_EQ(rows.q_NI[1].abs().max().item<double>(), 0);  // 1e-9 * 1.27e7 rounds to 0
  EXPECT_TRUE(rows.q_NI[2].isnan().all().item<bool>());   // seen, not hidden
  const Tensor w = at::zeros({4, 8}, at::kDouble);
  const auto codes = ops::ternary_codes(w, 0);
  EXPECT_EQ(codes.scale, 1e-5);
  EXPECT_EQ(codes.codes_OI.count_nonzero().item<int64_t>(), 0);
}

TEST(BitLinear, OutputGateBeforeTheLastNorm) {
  const Tensor g = numbers({0.4, -1.1, 0.9, 0.3}).view({1, 4}).requires_grad_();
  const Tensor h = numbers({0.2, 0.7, -1.3, 2.2}).view({1, 4}).requires_grad_();
  const Tensor wg = numbers({1.1, 0.9, 1.3, 0.8}), gain = numbers({0.7, 1.2, 1, 0.5});
  // No quantisation: the identity as the weight.
  const Tensor w = at::zeros({4, 4}, at::kDouble).fill_diagonal_(1);
  const Tensor r = ops::swiglu(h, ops::rms_norm_split(g, wg, 1e-3, {}));
  ops::bit_linear(r, gain, w, {}, {.eps = 1e-3, .round = ops::ActRound::None})
      .backward(numbers({0.3, -0.2, 1, 0.4}).view({1, 4}));
  expect_near(g.grad(),
              numbers({0.071781349, -0.377016717, -0.911586352, 1.256648829}).view({1, 4}), 1e-9);
  expect_near(h.grad(), numbers({0.156021781, 0.728924399, -0.013629749, 0.208939927}).view({1, 4}),
              1e-9);
}

TEST(BitLinear, NormOfPartsIsThePartOfTheNorm) {
  const auto leaf = [](const Tensor& t) { return t.detach().clone().requires_grad_(); };
  const Tensor x = normal({9, 20}, "x"), w = normal({20}, "w"), g = normal({9, 20}, "g");
  Tensor xs = leaf(x), ws = leaf(w);
  const Tensor y = ops::rms_norm_split(xs, ws, 1e-5, {});
  y.backward(g);
  const Tensor squares = x.square().sum(1), rstd = (squares / 20 + 1e-5).rsqrt();
  const Tensor dots = (g * w * x).sum(1) * rstd;
  bool forward = true;
  ops::FeatureGroup group;
  group.width = 20;
  group.sum = [&](Tensor& s) { s = forward ? squares.clone() : dots.clone(); };
  Tensor xp = leaf(x.narrow(1, 5, 9)), wp = leaf(w.narrow(0, 5, 9));
  const Tensor part = ops::rms_norm_split(xp, wp, 1e-5, group);
  EXPECT_LE(distance(part, y.narrow(1, 5, 9)), 1e-14);
  forward = false;
  part.backward(g.narrow(1, 5, 9));
  EXPECT_LE(distance(xp.grad(), xs.grad().narrow(1, 5, 9)), 1e-13);
  EXPECT_LE(distance(wp.grad(), ws.grad().narrow(0, 5, 9)), 1e-13);
}

}  // namespace bit_linear_detail
}  // namespace strata::testing
