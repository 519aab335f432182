#include "core/ops/delta_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/ops/delta_product_cpu.h"
#include "core/ops/l2_norm.h"
#include "core/rng.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {
namespace delta_product_test_detail {

using ops::DeltaProductInputs;
using ops::DeltaProductResult;
using Form = DeltaProductResult (*)(const DeltaProductInputs&);

struct Case {
  std::string name = "case";
  int64_t B = 2, T = 13, n = 2, H = 3, K = 6, V = 5;
  bool gated = true, initial = true;
  double gate_scale = 0.2;  // gates are -gate_scale |normal|
  double beta_low = 0, beta_high = 2;
  Tensor segments = {};
};

// Reproducible inputs: unit keys, uniform betas.
DeltaProductInputs make(const Case& c, at::ScalarType dtype = at::kDouble) {
  const auto acc = accumulate_dtype(dtype);
  const auto draw = [&](const Shape& shape, const char* what) {
    return normal(shape, cat(c.name, '.', what), at::kBFloat16).to(at::kDouble);
  };
  const auto leaf = [](const Tensor& x, at::ScalarType type) {
    return x.to(type, false, true).requires_grad_();
  };
  const int64_t M = c.T * c.n;
  DeltaProductInputs in;
  in.q_BTHK = leaf(draw({c.B, c.T, c.H, c.K}, "q") / std::sqrt(double(c.K)), dtype);
  in.k_BMHK = leaf(ops::l2_normalise_composite(draw({c.B, M, c.H, c.K}, "k")).detach(), dtype);
  in.v_BMHV = leaf(draw({c.B, M, c.H, c.V}, "v"), dtype);
  Tensor uniform = at::empty({c.B, M, c.H}, at::TensorOptions().dtype(at::kDouble));
  Rng(5, "init", c.name).fill_uniform(0, uniform.numel(), uniform.mutable_data_ptr<double>());
  in.beta_BMH = leaf(uniform * (c.beta_high - c.beta_low) + c.beta_low, acc);
  if (c.gated) in.gate_BTH = leaf(draw({c.B, c.T, c.H}, "gate").abs() * -c.gate_scale, acc);
  if (c.initial) in.initial_state_BHKV = leaf(draw({c.B, c.H, c.K, c.V}, "state"), acc);
  in.segments_BT = c.segments;
  return in;
}

std::vector<std::pair<std::string, Tensor>> leaves(const DeltaProductInputs& in) {
  std::vector<std::pair<std::string, Tensor>> out = {
      {"q", in.q_BTHK}, {"k", in.k_BMHK}, {"v", in.v_BMHV}, {"beta", in.beta_BMH}};
  if (in.gate_BTH.defined()) out.emplace_back("gate", in.gate_BTH);
  if (in.initial_state_BHKV.defined()) out.emplace_back("initial_state", in.initial_state_BHKV);
  return out;
}

// Output, final state and the gradients of a random function of both.
std::vector<std::pair<std::string, Tensor>> everything(Form form, const DeltaProductInputs& in) {
  for (auto& [name, x] : leaves(in)) x.mutable_grad() = Tensor();
  const DeltaProductResult r = form(in);
  const Tensor o = r.o_BTHV.to(at::kDouble), s = r.state_BHKV.to(at::kDouble);
  const Tensor loss =
      (o * normal(o.sizes().vec(), "do")).sum() + (s * normal(s.sizes().vec(), "ds")).sum();
  loss.backward();
  std::vector<std::pair<std::string, Tensor>> out = {{"o", r.o_BTHV.detach()},
                                                     {"state", r.state_BHKV.detach()}};
  for (auto& [name, x] : leaves(in)) {
    out.emplace_back("d" + name, x.grad().defined() ? x.grad().clone() : at::zeros_like(x));
    x.mutable_grad() = Tensor();
  }
  return out;
}

void expect_equal(const std::vector<std::pair<std::string, Tensor>>& got,
                  const std::vector<std::pair<std::string, Tensor>>& wanted, double bound,
                  const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LE(distance(got[i].second, wanted[i].second), bound) << what << ": " << got[i].first;
  }
}

Tensor documents_with_padding(int64_t B, int64_t T) {
  Tensor s = at::zeros({B, T}, at::TensorOptions().dtype(at::kInt));
  int32_t* p = s.mutable_data_ptr<int32_t>();
  const Rng rng(3, "data", cat("documents", T));
  for (int64_t b = 0; b < B; ++b) {
    int32_t document = 0;
    for (int64_t t = 0; t < T; ++t) {
      const double u = rng.uniform(b * T + t);
      if (u < 0.06) ++document;
      p[b * T + t] = u > 0.9 ? -1 : document;
    }
  }
  return s;
}

class DeltaProductAllForms : public ::testing::TestWithParam<Case> {};

TEST_P(DeltaProductAllForms, ChunksEqualTheRecurrence) {
  const DeltaProductInputs in = make(GetParam());
  const auto wanted = everything(ops::delta_product_recurrent, in);
  expect_equal(everything(ops::delta_product, in), wanted, 1e-11, "chunk form");
  expect_equal(everything(ops::delta_product_composite, in), wanted, 1e-11, "composite");
}

std::vector<Case> cases() {
  std::vector<Case> out;
  const Rng rng(1, "data", "lengths");
  for (int64_t i = 0; i < 12; ++i) {
    const int64_t T = 1 + rng.word(i) % 300;
    out.push_back({.name = cat("RandomLength", T),
                   .B = 1,
                   .T = T,
                   .n = 1 + i % 4,
                   .H = 2,
                   .gated = i % 3 != 0,
                   .initial = i % 2 == 0});
  }
  for (const int64_t T : {1, 2, 15, 16, 17, 21, 22, 31, 32, 33, 42, 43, 63, 64, 65, 128, 129}) {
    for (const int64_t n : {1, 2, 3, 4}) {
      if (n > 1 && T > 65) continue;
      out.push_back(
          {.name = cat("Border", T, "n", n), .B = 1, .T = T, .n = n, .H = 2, .gated = T % 2 == 1});
    }
  }
  for (const int64_t n : {1, 2, 3}) {
    for (const int64_t T : {7, 64, 90}) {
      out.push_back({.name = cat("Documents", T, "n", n),
                     .T = T,
                     .n = n,
                     .segments = documents_with_padding(2, T)});
    }
  }
  for (const double strength : {1.0, 30.0, 50.0}) {
    out.push_back({.name = cat("GatesDownTo", strength), .T = 40, .gate_scale = strength});
  }
  out.push_back({.name = "MoreStepsThanAChunk", .T = 3, .n = 70, .H = 1});
  out.push_back({.name = "WideHeads", .B = 1, .T = 70, .n = 2, .H = 1, .K = 100, .V = 36});
  out.push_back({.name = "WiderHeads", .B = 1, .T = 40, .n = 3, .H = 1, .K = 256, .V = 60});
  out.push_back(
      {.name = "Reflections", .T = 40, .n = 2, .gated = false, .beta_low = 2, .beta_high = 2});
  return out;
}
INSTANTIATE_TEST_SUITE_P(Cases, DeltaProductAllForms, ::testing::ValuesIn(cases()),
                         [](const auto& info) {
                           return cat(info.param.name.substr(0, 40), '_', info.index);
                         });

TEST(DeltaProduct, NoTokensLeaveTheStateAsItIs) {
  const DeltaProductInputs in = make({.T = 0});
  const auto r = ops::delta_product(in);
  EXPECT_EQ(r.o_BTHV.sizes(), (Shape{2, 0, 3, 5}));
  EXPECT_TRUE(r.state_BHKV.equal(in.initial_state_BHKV));
  const Tensor padding = at::full({2, 9}, -1, at::TensorOptions().dtype(at::kInt));
  const DeltaProductInputs all = make({.T = 9, .segments = padding});
  const auto r2 = ops::delta_product(all);
  EXPECT_TRUE(r2.state_BHKV.equal(all.initial_state_BHKV));
  EXPECT_EQ(r2.o_BTHV.abs().sum().item<double>(), 0);
  (r2.o_BTHV.sum() + r2.state_BHKV.sum()).backward();
  EXPECT_EQ(all.k_BMHK.grad().abs().sum().item<double>(), 0);
  EXPECT_TRUE(all.initial_state_BHKV.grad().equal(at::ones_like(all.initial_state_BHKV)));
}

TEST(DeltaProduct, GradientsEqualFiniteDifferences) {
  for (const int64_t n : {1, 2, 3, 4}) {
    const DeltaProductInputs in =
        make({.name = cat("differences", n),
              .T = 25,
              .n = n,
              .segments = n == 2 ? documents_with_padding(2, 25) : Tensor()});
    const auto all = everything(ops::delta_product, in);
    const auto loss = [&](const DeltaProductInputs& at) {
      at::NoGradGuard guard;
      const auto r = ops::delta_product(at);
      return ((r.o_BTHV * normal(r.o_BTHV.sizes().vec(), "do")).sum() +
              (r.state_BHKV * normal(r.state_BHKV.sizes().vec(), "ds")).sum())
          .item<double>();
    };
    const auto moved = [&](size_t which, const Tensor& step) {
      DeltaProductInputs at = in;
      Tensor* fields[] = {&at.q_BTHK,   &at.k_BMHK,   &at.v_BMHV,
                          &at.beta_BMH, &at.gate_BTH, &at.initial_state_BHKV};
      *fields[which] = (*fields[which]).detach() + step;
      return loss(at);
    };
    constexpr double h = 1e-6;
    for (size_t i = 0; i < 6; ++i) {
      const Tensor gradient = all[i + 2].second;
      const Tensor step = normal(gradient.sizes().vec(), cat("step", i));
      const double slope = (moved(i, step * h) - moved(i, step * -h)) / (2 * h);
      const double predicted = (gradient * step).sum().item<double>();
      EXPECT_NEAR(slope, predicted, 1e-6 * (gradient.norm() * step.norm()).item<double>())
          << all[i + 2].first << ", n = " << n;
    }
  }
}

// Distance of the fp32 and bf16 kernels from the recurrence in fp64 on the same rounded inputs.
void expect_rounding(const Case& c, at::ScalarType dtype, double output, double gradient) {
  const DeltaProductInputs narrow = make(c, dtype);
  DeltaProductInputs wide = narrow;
  for (Tensor* x : {&wide.q_BTHK, &wide.k_BMHK, &wide.v_BMHV, &wide.gate_BTH, &wide.beta_BMH,
                    &wide.initial_state_BHKV}) {
    if (x->defined()) *x = x->detach().to(at::kDouble).requires_grad_();
  }
  const auto got = everything(ops::delta_product, narrow),
             wanted = everything(ops::delta_product, wide);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LE(distance(got[i].second, wanted[i].second), i < 2 ? output : gradient)
        << c.name << ": " << got[i].first;
  }
}

TEST(DeltaProduct, Fp32AndBf16AreNearFp64) {
  Case c{.name = "rounding", .B = 1, .T = 200, .n = 1, .H = 2, .K = 64, .V = 64, .initial = true};
  for (const int64_t n : {1, 3}) {
    c.n = n;
    for (const bool gated : {false, true}) {
      c.gated = gated;
      c.beta_low = 0;
      c.beta_high = 2;
      expect_rounding(c, at::kFloat, 3e-6, 3e-6);
      // Inputs are the same numbers, sums are fp32: what is left is the rounding of results.
      expect_rounding(c, at::kBFloat16, 3e-3, 3e-3);
      c.beta_low = 1.8;
      expect_rounding(c, at::kFloat, 5e-6, 5e-6);
    }
  }
  c.gated = true;
  c.gate_scale = 50;  // gradients of gates are what cancellation leaves
  expect_rounding(c, at::kFloat, 3e-6, 1e-5);
}

TEST(DeltaProduct, BitsDoNotDependOnWhatElseIsInTheBatch) {
  const int64_t T = 75;
  Case c{.name = "isolation", .B = 2, .T = T, .n = 2, .initial = false};
  c.segments = at::zeros({2, T}, at::TensorOptions().dtype(at::kInt));
  c.segments.slice(1, 40, T).fill_(1);
  const DeltaProductInputs in = make(c, at::kFloat);
  const auto packed = ops::delta_product(in);
  // The second document alone, and the second row alone.
  DeltaProductInputs part = in;
  const auto cut = [&](const Tensor& x, int64_t per) {
    return x.slice(1, 40 * per, T * per).slice(0, 1, 2);
  };
  part.q_BTHK = cut(in.q_BTHK, 1);
  part.k_BMHK = cut(in.k_BMHK, 2);
  part.v_BMHV = cut(in.v_BMHV, 2);
  part.gate_BTH = cut(in.gate_BTH, 1);
  part.beta_BMH = cut(in.beta_BMH, 2);
  part.segments_BT = Tensor();
  const auto alone = ops::delta_product(part);
  EXPECT_TRUE(bit_equal(packed.o_BTHV.slice(1, 40, T).slice(0, 1, 2), alone.o_BTHV));
  EXPECT_TRUE(bit_equal(packed.state_BHKV.slice(0, 1, 2), alone.state_BHKV));
}

TEST(DeltaProduct, CarriedStateSplitsAnywhere) {
  const DeltaProductInputs in = make({.name = "split", .T = 70, .n = 3});
  const auto whole = ops::delta_product(in);
  for (const int64_t at : {1, 21, 40, 69}) {
    const auto part = [&](int64_t begin, int64_t end, const Tensor& state) {
      DeltaProductInputs p;
      p.q_BTHK = in.q_BTHK.slice(1, begin, end);
      p.k_BMHK = in.k_BMHK.slice(1, begin * 3, end * 3);
      p.v_BMHV = in.v_BMHV.slice(1, begin * 3, end * 3);
      p.gate_BTH = in.gate_BTH.slice(1, begin, end);
      p.beta_BMH = in.beta_BMH.slice(1, begin * 3, end * 3);
      p.initial_state_BHKV = state;
      return ops::delta_product(p);
    };
    const auto first = part(0, at, in.initial_state_BHKV), second = part(at, 70, first.state_BHKV);
    EXPECT_LE(distance(at::cat({first.o_BTHV, second.o_BTHV}, 1), whole.o_BTHV), 1e-13) << at;
    EXPECT_LE(distance(second.state_BHKV, whole.state_BHKV), 1e-13) << at;
  }
}

TEST(DeltaProduct, GatesOfZeroEqualNoGates) {
  Case c{.name = "zero gates", .T = 50, .gated = false};
  const DeltaProductInputs without = make(c);
  DeltaProductInputs with = without;
  with.gate_BTH = at::zeros({2, 50, 3}, at::TensorOptions().dtype(at::kDouble));
  const auto a = ops::delta_product(with), b = ops::delta_product(without);
  EXPECT_TRUE(a.o_BTHV.equal(b.o_BTHV));
  EXPECT_TRUE(a.state_BHKV.equal(b.state_BHKV));
}

TEST(DeltaProduct, InputsMayBeViews) {
  const DeltaProductInputs in = make({.name = "views", .T = 37});
  DeltaProductInputs views = in;
  for (Tensor* x : {&views.q_BTHK, &views.k_BMHK, &views.v_BMHV}) {
    *x = at::stack({*x, *x * 2}, -2).select(-2, 0).detach().requires_grad_();
  }
  views.beta_BMH =
      at::stack({in.beta_BMH, in.beta_BMH}, -1).select(-1, 1).detach().requires_grad_();
  expect_equal(everything(ops::delta_product, views), everything(ops::delta_product, in), 1e-15,
               "views");
}

TEST(DeltaProduct, RefusesWhatDoesNotFit) {
  DeltaProductInputs in = make({.T = 8});
  in.k_BMHK = in.k_BMHK.slice(1, 0, 15);
  EXPECT_THROW(ops::delta_product(in), std::exception);
  in = make({.T = 8}, at::kBFloat16);
  in.beta_BMH = in.beta_BMH.to(at::kBFloat16);
  EXPECT_THROW(ops::delta_product(in), std::exception);
}

// ---- what the recurrence means ----

Tensor f64(const Tensor& x) { return x.to(at::kDouble); }

// One row, one head: q [T, K], k [M, K], v [M, V], beta [M].
DeltaProductInputs single(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta) {
  DeltaProductInputs in;
  in.q_BTHK = q.unsqueeze(0).unsqueeze(2);
  in.k_BMHK = k.unsqueeze(0).unsqueeze(2);
  in.v_BMHV = v.unsqueeze(0).unsqueeze(2);
  in.beta_BMH = beta.unsqueeze(0).unsqueeze(2);
  return in;
}

TEST(DeltaProductMeaning, RecallsWhatOrthonormalKeysStored) {
  const Tensor keys = at::eye(8, at::kDouble), values = normal({8, 5}, "values");
  const Tensor k = at::cat({keys, keys}, 0),
               v = at::cat({values, at::zeros({8, 5}, at::kDouble)}, 0);
  const Tensor beta = at::cat({at::ones({8}, at::kDouble), at::zeros({8}, at::kDouble)}, 0);
  const auto r = ops::delta_product(single(k, k, v, beta));
  EXPECT_LE(distance(r.o_BTHV.view({16, 5}).slice(0, 8, 16), values), 1e-14);
}

TEST(DeltaProductMeaning, OverwritesTheValueOfAKey) {
  const Tensor key = ops::l2_normalise(normal({1, 6}, "key")) * std::sqrt(1.0 + 1e-7);
  const Tensor unit = key / key.norm();
  const Tensor values = normal({2, 4}, "values");
  const Tensor k = at::cat({unit, unit}, 0);
  const auto r = ops::delta_product(single(k, k, values, at::ones({2}, at::kDouble)));
  EXPECT_LE(distance(at::matmul(unit, r.state_BHKV.view({6, 4})), values.slice(0, 1, 2)), 1e-14);
}

TEST(DeltaProductMeaning, BetaTwoReflects) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const Tensor raw = normal({150, 8}, "keys");
    const Tensor k = (raw / raw.norm(2, {1}, true)).to(dtype);
    DeltaProductInputs in =
        single(k, k, at::zeros({150, 5}, k.options()), at::full({150}, 2, k.options()));
    in.initial_state_BHKV = normal({1, 1, 8, 5}, "state").to(dtype);
    const auto r = ops::delta_product(in);
    EXPECT_NEAR(r.state_BHKV.norm().item<double>() / in.initial_state_BHKV.norm().item<double>(), 1,
                4e-6);  // keys of fp32 are not quite of length one
    // Twice the same reflection is nothing.
    in = single(k.slice(0, 0, 2), at::stack({k[0], k[0], k[1], k[1]}, 0),
                at::zeros({4, 5}, k.options()), at::full({4}, 2, k.options()));
    in.initial_state_BHKV = normal({1, 1, 8, 5}, "state").to(dtype);
    EXPECT_LE(distance(ops::delta_product(in).state_BHKV, in.initial_state_BHKV), 1e-6);
  }
}

TEST(DeltaProductMeaning, TwoReflectionsTurnThePlane) {
  const double a = 0.4, b = 1.3, angle = 2 * (b - a);
  const Tensor k =
      at::tensor({std::cos(a), std::sin(a), std::cos(b), std::sin(b)}, at::kDouble).view({2, 2});
  DeltaProductInputs in =
      single(k.slice(0, 0, 1), k, at::zeros({2, 2}, at::kDouble), at::full({2}, 2.0, at::kDouble));
  in.initial_state_BHKV = at::eye(2, at::kDouble).view({1, 1, 2, 2});
  const Tensor turn = at::tensor(
      {std::cos(angle), -std::sin(angle), std::sin(angle), std::cos(angle)}, at::kDouble);
  EXPECT_LE(distance(ops::delta_product(in).state_BHKV.view({4}), turn), 1e-14);
}

// The action of a word over S_m, m - 1 steps per token: keys (e_i - e_j) / sqrt(2) with beta 2
// exchange rows i and j, beta 0 fills up.
TEST(DeltaProductMeaning, MultipliesPermutations) {
  for (const int64_t m : {3, 4, 5}) {
    const int64_t T = 512, n = m - 1;
    const Rng rng(7, "data", cat("permutations", m));
    Tensor k = at::zeros({T * n, m}, at::kFloat), beta = at::zeros({T * n}, at::kFloat);
    std::vector<int64_t> rows(static_cast<size_t>(m));
    for (int64_t i = 0; i < m; ++i) rows[static_cast<size_t>(i)] = i;
    uint64_t draw = 0;
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t j = 0; j < n; ++j) {  // shuffling by exchanges
        const int64_t i = m - 1 - j, with = rng.word(draw++) % (i + 1);
        float* key = k.mutable_data_ptr<float>() + (t * n + j) * m;
        key[0] = 1;
        if (with == i) continue;
        key[0] = 0;
        key[i] = static_cast<float>(1 / std::numbers::sqrt2);
        key[with] = -key[i];
        beta.mutable_data_ptr<float>()[t * n + j] = 2;
        std::swap(rows[static_cast<size_t>(i)], rows[static_cast<size_t>(with)]);
      }
    }
    DeltaProductInputs in =
        single(at::zeros({T, m}, at::kFloat), k, at::zeros({T * n, m}, at::kFloat), beta);
    in.initial_state_BHKV = at::eye(m, at::kFloat).view({1, 1, m, m});
    Tensor wanted = at::zeros({m, m}, at::kFloat);
    for (int64_t i = 0; i < m; ++i) wanted[i][rows[static_cast<size_t>(i)]] = 1;
    EXPECT_LE(distance(ops::delta_product(in).state_BHKV.view({m, m}), wanted), 1e-4) << m;
  }
}

TEST(DeltaProductMeaning, StepsWithoutBetaAreNotThere) {
  const DeltaProductInputs two = make({.name = "beta zero", .T = 40, .n = 2});
  DeltaProductInputs in = two;
  const Tensor beta = two.beta_BMH.detach().clone();
  beta.view({2, 40, 2, 3}).select(2, 1).zero_();
  in.beta_BMH = beta;
  const auto every = [&](const Tensor& x) {
    return x.view({x.size(0), 40, 2, x.size(2), -1}).select(2, 0);
  };
  DeltaProductInputs one = in;
  one.k_BMHK = every(in.k_BMHK);
  one.v_BMHV = every(in.v_BMHV);
  one.beta_BMH = every(in.beta_BMH).squeeze(-1);
  const auto a = ops::delta_product(in), b = ops::delta_product(one);
  EXPECT_LE(distance(a.o_BTHV, b.o_BTHV), 1e-13);
  EXPECT_LE(distance(a.state_BHKV, b.state_BHKV), 1e-13);
  // No beta anywhere: only the decay is left, and keys and values get no gradient.
  in = make({.name = "no beta", .T = 40, .n = 2, .beta_high = 0});
  const auto r = ops::delta_product(in);
  const Tensor decay = in.gate_BTH.sum(1).exp().unsqueeze(-1).unsqueeze(-1);
  EXPECT_LE(distance(r.state_BHKV, in.initial_state_BHKV * decay), 1e-13);
  r.state_BHKV.sum().backward();
  EXPECT_EQ(in.k_BMHK.grad().abs().max().item<double>(), 0);
  EXPECT_EQ(in.v_BMHV.grad().abs().max().item<double>(), 0);
  EXPECT_GT(in.beta_BMH.grad().abs().max().item<double>(), 0);
}

TEST(DeltaProductMeaning, IdenticalKeysCollapse) {
  for (const double beta : {0.5, 1.0, 2.0}) {
    const Tensor raw = normal({1, 6}, "key"), key = raw / raw.norm();
    DeltaProductInputs two = single(key, at::cat({key, key}, 0), at::zeros({2, 4}, at::kDouble),
                                    at::full({2}, beta, at::kDouble));
    two.initial_state_BHKV = normal({1, 1, 6, 4}, "state");
    DeltaProductInputs one = single(key, key, at::zeros({1, 4}, at::kDouble),
                                    at::full({1}, 2 * beta - beta * beta, at::kDouble));
    one.initial_state_BHKV = two.initial_state_BHKV;
    EXPECT_LE(distance(ops::delta_product(two).state_BHKV, ops::delta_product(one).state_BHKV),
              1e-14);
  }
}

// The inverse of a chunk's triangular system stays small for unit keys and gates <= 0.
TEST(DeltaProductMeaning, InversesAreBounded) {
  for (const double spread : {0.0, 0.05, 1.0}) {  // 0: all keys the same
    Case c{.name = cat("bound", spread),
           .B = 1,
           .T = 200,
           .n = 2,
           .H = 2,
           .K = 16,
           .V = 4,
           .gated = spread > 0.5,
           .beta_low = 1.5};
    DeltaProductInputs in = make(c);
    const Tensor raw = in.k_BMHK.detach() * spread + normal({1, 1, 2, 16}, "common") * (1 - spread);
    in.k_BMHK = raw / raw.norm(2, {3}, true);
    const auto cut = ops::delta_cpu::cut(Tensor(), 1, 200, 2);
    ops::delta_cpu::Kept kept;
    for (Tensor* x : {&in.q_BTHK, &in.v_BMHV, &in.gate_BTH, &in.beta_BMH, &in.initial_state_BHKV}) {
      if (x->defined()) *x = x->detach();
    }
    ops::delta_cpu::forward(in, cut, &kept);
    EXPECT_LE(kept.inverses.abs().max().item<double>(), 2 + 1e-9) << spread;
  }
}

}  // namespace delta_product_test_detail
}  // namespace strata::testing
