#include "core/ops/gated_scan.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/rng.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {
namespace gated_scan_detail {

Tensor numbers(std::initializer_list<double> values) {
  return at::tensor(std::vector<double>(values), at::kDouble);
}
Tensor leaf(const Tensor& t) { return t.detach().clone().requires_grad_(); }

TEST(GatedScan, WorkedExample) {
  const Tensor u = leaf(numbers({0.3, -1.2, 0.8, 2.0}).view({1, 4, 1}));
  const Tensor v = leaf(numbers({0.5, -0.4, 1.5, -2.0}).view({1, 4, 1}));
  const Tensor b = leaf(numbers({0.25})), h0 = leaf(numbers({0.1}).view({1, 1}));
  const ops::GatedScan out = ops::gated_scan(u, v, b, {}, h0);
  const auto near = [](const Tensor& got, const Tensor& wanted) {
    EXPECT_LE((got.reshape(-1) - wanted).abs().max().item<double>(), 1e-13) << got;
  };
  near(out.h_BTD.detach(),
       numbers({0.120481417536351, -0.058339856094448, 0.025163526690299, 1.172245794966538}));
  near(out.state_BD.detach(), numbers({1.172245794966538}));
  out.h_BTD.backward(numbers({1, -0.5, 0.25, 2}).view({1, 4, 1}));
  near(u.grad(),
       numbers({0.213915793334401, 0.002438892114386, 0.109427339313335, 1.441139368551053}));
  near(v.grad(),
       numbers({-0.014868299347360, 0.021652830108774, -0.063409692979166, -0.273471116356572}));
  near(b.grad(), numbers({-3.122205555201992}));
  near(h0.grad(), numbers({0.836017290793472}));
}

TEST(GatedScan, BoundsOfLayers) {
  const Tensor theta = leaf(numbers({0.1, -0.3, 0.7, 0}).view({4, 1}));
  const double expected[] = {0, 0.152439830, 0.566814250, 0.772586497};
  const double factor[] = {0.9, 0.5, -1, 2};
  Tensor sum = at::zeros({1}, at::kDouble);
  for (int64_t l = 0; l < 4; ++l) {
    const Tensor b = ops::gate_bound(theta, l);
    EXPECT_NEAR(b.item<double>(), expected[l], 1e-9);
    sum = sum + b * factor[l];
  }
  sum.backward(numbers({1}));
  const Tensor wanted = numbers({-0.239825427, 0.067899954, -0.022616000, 0.194541474});
  EXPECT_LE((theta.grad().view({4}) - wanted).abs().max().item<double>(), 1e-9);
  // At theta = 0 the bounds are the layer's share of the depth.
  EXPECT_NEAR(ops::gate_bound(at::zeros({5, 1}, at::kDouble), 3).item<double>(), 0.6, 1e-15);
}

struct Run {
  Tensor h, state, du, dv, db, d0;
};
template <class Op>
Run run(const Op& op, const Tensor& u, const Tensor& v, const Tensor& b, const Tensor& segments,
        const Tensor& h0) {
  const Tensor lu = leaf(u), lv = leaf(v), lb = leaf(b), l0 = leaf(h0);
  const ops::GatedScan out = op(lu, lv, lb, segments, l0);
  const Tensor g = normal(out.h_BTD.sizes().vec(), "direction"),
               gs = normal(out.state_BD.sizes().vec(), "direction of the state");
  ((out.h_BTD * g).sum() + (out.state_BD * gs).sum()).backward();
  return {out.h_BTD.detach(), out.state_BD.detach(), lu.grad(), lv.grad(), lb.grad(), l0.grad()};
}
void expect_same(const Run& a, const Run& b, double bound, const std::string& what) {
  EXPECT_LE(distance(a.h, b.h), bound) << what;
  EXPECT_LE(distance(a.state, b.state), bound) << what;
  EXPECT_LE(distance(a.du, b.du), bound) << what;
  EXPECT_LE(distance(a.dv, b.dv), bound) << what;
  EXPECT_LE(distance(a.db, b.db), bound) << what;
  EXPECT_LE(distance(a.d0, b.d0), bound) << what;
}

TEST(GatedScan, EqualsTheRecurrenceForRandomLengthsAndSegments) {
  const Rng rng(3, "data", "lengths");
  for (uint64_t trial = 0; trial < 12; ++trial) {
    const int64_t T = trial < 3 ? static_cast<int64_t>(trial) + 1
                                : 1 + static_cast<int64_t>(rng.word(trial) % 300);
    const int64_t D = 1 + static_cast<int64_t>(rng.word(100 + trial) % 40);
    const std::string name = cat("trial", trial);
    const Tensor u = normal({2, T, D}, name + "u"), v = normal({2, T, D}, name + "v") * 3;
    const Tensor b = normal({D}, name + "b").sigmoid(), h0 = normal({2, D}, name + "h0");
    Tensor segments;
    if (trial % 3 > 0) {
      segments = at::zeros({2, T}, at::kInt);
      int32_t* s = segments.data_ptr<int32_t>();
      for (int64_t row = 0; row < 2; ++row) {
        int32_t current = 0;
        for (int64_t t = 0; t < T; ++t) {
          const uint64_t draw =
              rng.word(1000 * (trial + 1) + static_cast<uint64_t>(row * T + t)) % 10;
          if (draw == 0) ++current;
          s[row * T + t] = trial % 3 == 2 && draw >= 8 ? -1 : current;
        }
      }
    }
    expect_same(run(ops::gated_scan, u, v, b, segments, h0),
                run(ops::gated_scan_composite, u, v, b, segments, h0), 1e-11, name);
  }
}

// Channels are dealt to tasks by the number of threads: more channels than one task takes, few rows
// for many threads.
TEST(GatedScan, ChannelsMayBeCutAnywhere) {
  const int before = at::get_num_threads();
  for (const int64_t D : {1, 130, 1100}) {
    const Tensor u = normal({3, 9, D}, "u"), v = normal({3, 9, D}, "v");
    const Tensor b = normal({D}, "b").sigmoid(), h0 = normal({3, D}, "h0");
    at::set_num_threads(1);
    const auto one = run(ops::gated_scan, u, v, b, {}, h0);
    expect_same(one, run(ops::gated_scan_composite, u, v, b, {}, h0), 1e-11, cat(D));
    for (const int threads : {2, 5}) {
      at::set_num_threads(threads);
      expect_same(one, run(ops::gated_scan, u, v, b, {}, h0), 0, cat(D, " ", threads));
    }
  }
  at::set_num_threads(before);
}

// Cut anywhere, the state carried over: packing, generation token by token.
TEST(GatedScan, PartsWithTheirStatesAreOneSequence) {
  const Tensor u = normal({2, 50, 7}, "u"), v = normal({2, 50, 7}, "v");
  const Tensor whole = ops::gated_scan(u, v, {}, {}, {}).h_BTD;
  for (const int64_t cut : {1, 13, 49}) {
    const auto a = ops::gated_scan(u.narrow(1, 0, cut), v.narrow(1, 0, cut), {}, {}, {});
    const auto b =
        ops::gated_scan(u.narrow(1, cut, 50 - cut), v.narrow(1, cut, 50 - cut), {}, {}, a.state_BD);
    EXPECT_TRUE(at::cat({a.h_BTD, b.h_BTD}, 1).equal(whole)) << cut;
  }
  Tensor state;
  for (int64_t t = 0; t < 50; ++t) {
    const auto step = ops::gated_scan(u.narrow(1, t, 1), v.narrow(1, t, 1), {}, {}, state);
    state = step.state_BD;
    EXPECT_TRUE(step.h_BTD.equal(whole.narrow(1, t, 1))) << t;
  }
  const Tensor two = at::cat({at::zeros({2, 20}, at::kInt), at::full({2, 30}, 1, at::kInt)}, 1);
  const Tensor packed = ops::gated_scan(u, v, {}, two, {}).h_BTD;
  EXPECT_TRUE(packed.narrow(1, 20, 30).equal(
      ops::gated_scan(u.narrow(1, 20, 30), v.narrow(1, 20, 30), {}, {}, {}).h_BTD));
}

TEST(GatedScan, ExtremeGatesStayFinite) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Tensor u = normal({1, 60, 5}, "u", dtype) * 50;
    Tensor v = normal({1, 60, 5}, "v", dtype) * 300;
    v.select(2, 0).fill_(1e4);   // never forgets, never writes
    v.select(2, 1).fill_(-1e4);  // forgets everything
    const Tensor lu = leaf(u), lv = leaf(v);
    const auto out = ops::gated_scan(lu, lv, {}, {}, {});
    EXPECT_EQ(out.h_BTD.select(2, 0).abs().max().item<double>(), 0);
    out.h_BTD.sum().backward();
    for (const Tensor& t : {out.h_BTD.detach(), lu.grad(), lv.grad()})
      EXPECT_TRUE(t.isfinite().all().item<bool>()) << dtype_name(dtype);
  }
}

}  // namespace gated_scan_detail
}  // namespace strata::testing
