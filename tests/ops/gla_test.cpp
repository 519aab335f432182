// Gated linear attention: kernel and composite form against the recurrence, and what can be known
// without either.
#include "core/ops/gla.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/ops/gla_cpu.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace gla_test_detail {

using ops::GlaResult;
using Form = GlaResult (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, double);

struct Sizes {
  int64_t B = 1, T = 1, H = 1, G = 1, K = 6, V = 5;
};

// q, k, v, g, initial state.
Inputs make(const Sizes& n, double strength, at::ScalarType dtype = at::kDouble) {
  const auto acc = accumulate_dtype(dtype);
  const auto bf16 = [&](const Shape& shape, const std::string& name, at::ScalarType type) {
    return normal(shape, name, at::kBFloat16).to(type);
  };
  return {bf16({n.B, n.T, n.H, n.K}, "q", dtype), bf16({n.B, n.T, n.G, n.K}, "k", dtype),
          bf16({n.B, n.T, n.G, n.V}, "v", dtype),
          bf16({n.B, n.T, n.G, n.K}, "g", acc).abs() * -strength,
          bf16({n.B, n.H, n.K, n.V}, "state", acc)};
}

struct Outcome {
  std::vector<Tensor> values;  // o, state, then gradients of q, k, v, g, initial state
};
const char* const kNames[] = {"o", "state", "dq", "dk", "dv", "dg", "dstate"};

Outcome run(Form form, const Inputs& given, const Tensor& segments = {}, bool with_state = true) {
  Inputs in;
  for (const Tensor& x : given) in.push_back(x.detach().clone().requires_grad_());
  const double scale = 1 / std::sqrt(static_cast<double>(in[0].size(3)));
  const GlaResult out =
      form(in[0], in[1], in[2], in[3], segments, with_state ? in[4] : Tensor(), scale);
  const Tensor a = normal(out.o_BTHV.sizes().vec(), "do", at::kBFloat16);
  const Tensor b = normal(out.state_BHKV.sizes().vec(), "ds", at::kBFloat16);
  Tensor loss = (out.state_BHKV * b.to(out.state_BHKV.scalar_type())).sum();
  loss = loss + (out.o_BTHV * a.to(out.o_BTHV.scalar_type())).sum().to(loss.scalar_type());
  loss.backward();
  Outcome result;
  result.values = {out.o_BTHV.detach(), out.state_BHKV.detach()};
  for (const Tensor& x : in) {
    result.values.push_back(x.grad().defined() ? x.grad() : at::zeros(x.sizes(), x.options()));
  }
  return result;
}

void expect_near(const Outcome& got, const Outcome& wanted, double bound, double dg_bound = 0,
                 const std::string& what = "") {
  for (size_t i = 0; i < got.values.size(); ++i) {
    ASSERT_TRUE(got.values[i].isfinite().all().item<bool>()) << kNames[i] << ' ' << what;
    EXPECT_LE(distance(got.values[i], wanted.values[i]), i == 5 && dg_bound > 0 ? dg_bound : bound)
        << kNames[i] << ' ' << what;
  }
}

TEST(Gla, ChunksEqualTheRecurrence) {
  for (const int64_t T : {0, 1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 191, 243, 300}) {
    for (const double strength : {0.05, 1.0, 30.0}) {
      const Inputs in = make({.B = 2, .T = T, .H = 2, .G = 2}, strength);
      const Outcome wanted = run(ops::gla_recurrent, in);
      expect_near(run(ops::gla, in), wanted, 1e-11, 0, cat("kernel, T ", T, ", ", strength));
      expect_near(run(ops::gla_composite, in), wanted, 1e-11, 0, cat("composite, T ", T));
    }
  }
}

TEST(Gla, AnyWidthsAndGroupsOfHeads) {
  for (const Sizes& n : {Sizes{1, 70, 1, 1, 1, 1}, Sizes{1, 70, 4, 2, 60, 100},
                         Sizes{2, 130, 6, 1, 16, 33}, Sizes{1, 20, 3, 3, 100, 8}}) {
    const Inputs in = make(n, 0.3);
    const Outcome wanted = run(ops::gla_recurrent, in);
    expect_near(run(ops::gla, in), wanted, 1e-11, 0, cat("K ", n.K, ", V ", n.V));
    expect_near(run(ops::gla_composite, in), wanted, 1e-11);
    expect_near(run(ops::gla, in, {}, false), run(ops::gla_recurrent, in, {}, false), 1e-11);
  }
}

Tensor segments_of(const std::vector<int32_t>& lengths) {  // one row; negative: padding
  std::vector<int32_t> segments;
  int32_t segment = 0;
  for (const int32_t length : lengths) {
    segments.insert(segments.end(), static_cast<size_t>(std::abs(length)),
                    length < 0 ? -1 : segment++);
  }
  return at::tensor(segments, at::kInt).unsqueeze(0);
}

TEST(Gla, PackedRowsEqualTheRecurrence) {
  const std::vector<std::vector<int32_t>> packings = {
      {1, 1, 1},       {64, 64},        {63, 1, 1, 63}, {15, 16, 17, 65}, {-3, 20, 70, -9},
      {5, -4, 0, 130}, {-100, 40, -60}, {300},          {7, 128, 2, 33}};
  for (const auto& lengths : packings) {
    const Tensor segments = segments_of(lengths);
    const Inputs in = make({.T = segments.size(1), .H = 2, .G = 1}, 0.2);
    const Outcome wanted = run(ops::gla_recurrent, in, segments);
    expect_near(run(ops::gla, in, segments), wanted, 1e-11, 0, "kernel");
    expect_near(run(ops::gla_composite, in, segments), wanted, 1e-11, 0, "composite");
  }
}

// The same as every document by itself; the initial state belongs to the first, the final one to
// the last.
// The heads take turns every 512 tokens, and the backward begins at the states kept there.
TEST(Gla, LongTextsEqualTheRecurrence) {
  for (const int32_t T : {512, 513, 1100}) {
    const Inputs in = make({.B = 1, .T = T, .H = 4, .G = 2}, 0.02);
    expect_near(run(ops::gla, in), run(ops::gla_recurrent, in), 1e-11, 0, cat("T ", T));
    const Tensor segments = segments_of({450, -30, 32, T - 512});
    expect_near(run(ops::gla, in, segments, false), run(ops::gla_recurrent, in, segments, false),
                1e-11, 0, cat("packed, T ", T));
  }
}

TEST(Gla, PackedDocumentsEqualSeparateRuns) {
  const std::vector<int32_t> lengths = {30, 1, 64, 47};
  const Inputs in = make({.T = 142, .H = 2, .G = 2}, 0.1);
  const Outcome packed = run(ops::gla, in, segments_of(lengths));
  const Tensor direction = normal({1, 142, 2, 5}, "do", at::kBFloat16).to(at::kDouble);
  int64_t begin = 0;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const int64_t length = lengths[d];
    Inputs part;
    for (size_t i = 0; i < 4; ++i) {
      part.push_back(in[i].narrow(1, begin, length).clone().requires_grad_());
    }
    part.push_back(in[4].clone().requires_grad_());
    const auto out = ops::gla(part[0], part[1], part[2], part[3], {}, d == 0 ? part[4] : Tensor(),
                              1 / std::sqrt(6.0));
    Tensor loss = (out.o_BTHV * direction.narrow(1, begin, length)).sum();
    if (d + 1 == lengths.size()) {
      EXPECT_LE(distance(packed.values[1], out.state_BHKV), 1e-13);
      loss =
          loss + (out.state_BHKV * normal({1, 2, 6, 5}, "ds", at::kBFloat16).to(at::kDouble)).sum();
    }
    loss.backward();
    EXPECT_LE(distance(packed.values[0].narrow(1, begin, length), out.o_BTHV), 1e-13) << d;
    for (size_t i = 0; i < 4; ++i) {
      Tensor wanted = part[i].grad();
      if (i == 3 && d > 0) wanted.select(1, 0).zero_();  // nothing decays at a document's start
      EXPECT_LE(distance(packed.values[i + 2].narrow(1, begin, length), wanted), 1e-12)
          << kNames[i + 2] << ' ' << d;
    }
    begin += length;
  }
}

TEST(Gla, DocumentsDoNotTouchOneAnother) {
  const std::vector<int32_t> lengths = {30, 50, 90};
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    Inputs in = make({.T = 170, .H = 2, .G = 1, .K = 20, .V = 24}, 0.1, dtype);
    const Tensor segments = segments_of(lengths);
    const Outcome before = run(ops::gla, in, segments);
    for (size_t i = 0; i < 4; ++i) in[i].narrow(1, 30, 50).mul_(0.5);
    const Outcome after = run(ops::gla, in, segments);
    for (size_t i = 0; i < 6; ++i) {
      if (i == 1) continue;
      for (const auto& [begin, length] : {std::pair<int64_t, int64_t>{0, 30}, {80, 90}}) {
        EXPECT_TRUE(bit_equal(before.values[i].narrow(1, begin, length),
                              after.values[i].narrow(1, begin, length)))
            << kNames[i] << " from " << begin;
      }
      EXPECT_FALSE(bit_equal(before.values[i], after.values[i])) << kNames[i];
    }
  }
}

TEST(Gla, PaddingIsAsIfItWereNotThere) {
  const Tensor segments = segments_of({-5, 40, -70, 33, -2});
  Inputs in = make({.T = 150, .H = 2, .G = 2}, 0.1);
  for (size_t i = 0; i < 4; ++i) {  // values that would be seen
    in[i] = in[i].masked_fill(segments.lt(0).unsqueeze(-1).unsqueeze(-1), i == 3 ? -7.0 : 1e30);
  }
  // 40 and 33 are different segments; as one they must give one document of 73 tokens.
  Tensor joined = segments.clone();
  joined.masked_fill_(joined.ge(0), 4);
  const Tensor kept = at::cat({at::arange(5, 45), at::arange(115, 148)});
  Inputs short_in;
  for (size_t i = 0; i < 4; ++i) short_in.push_back(in[i].index_select(1, kept));
  short_in.push_back(in[4]);
  for (const Form form : {Form(ops::gla), Form(ops::gla_composite), Form(ops::gla_recurrent)}) {
    const Outcome run_padded = run(form, in, joined);
    const Outcome run_short = run(ops::gla_recurrent, short_in);
    EXPECT_LE(distance(run_padded.values[1], run_short.values[1]), 1e-12);
    const Tensor at_padding = at::arange(150).masked_select(segments[0].lt(0));
    for (size_t i = 2; i < 6; ++i) {
      EXPECT_EQ(run_padded.values[i].index_select(1, at_padding).count_nonzero().item<int64_t>(), 0)
          << kNames[i];
    }
    EXPECT_TRUE(run_padded.values[0].isfinite().all().item<bool>());
  }
}

TEST(Gla, WithoutDecayItIsASumOfOuterProducts) {
  Inputs in = make({.T = 150, .H = 1, .G = 1}, 0.0);
  in[4].zero_();
  const Tensor states = at::cumsum(in[1].unsqueeze(-1) * in[2].unsqueeze(-2), 1);
  const Tensor wanted = (in[0].unsqueeze(-1) * states).sum(-2) / std::sqrt(6.0);
  const Outcome got = run(ops::gla, in);
  EXPECT_LE(distance(got.values[0], wanted), 1e-13);
  EXPECT_LE(distance(got.values[1], states.select(1, 149)), 1e-13);
}

TEST(Gla, TotalDecayLeavesTheTokenItself) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    Inputs in = make({.B = 2, .T = 100, .H = 2, .G = 2}, 1.0, dtype);
    in[3].fill_(-1e4);
    const Outcome got = run(ops::gla, in);
    const Tensor own = (in[0] * in[1]).sum(-1, true) * in[2] / std::sqrt(6.0);
    EXPECT_LE(distance(got.values[0], own), dtype == at::kDouble ? 1e-14 : 1e-6);
    const Tensor last = in[1].select(1, 99).unsqueeze(-1) * in[2].select(1, 99).unsqueeze(-2);
    EXPECT_LE(distance(got.values[1], last), 1e-15);
    for (const Tensor& x : got.values) EXPECT_TRUE(x.isfinite().all().item<bool>());
    EXPECT_EQ(got.values[5].count_nonzero().item<int64_t>(), 0) << "dg";
    EXPECT_EQ(got.values[6].count_nonzero().item<int64_t>(), 0) << "dstate";
  }
}

// A channel whose inverse decay is no number of fp32 behind two tokens.
TEST(Gla, OneChannelOfStrongDecay) {
  Inputs in = make({.T = 129, .H = 2, .G = 1, .K = 20, .V = 12}, 0.05, at::kFloat);
  in[3].select(-1, 3).fill_(-60);
  in[3].select(-1, 7).narrow(1, 40, 2).fill_(-1e4);
  Inputs wide;
  for (const Tensor& x : in) wide.push_back(x.to(at::kDouble));
  expect_near(run(ops::gla, in), run(ops::gla_recurrent, wide), 5e-6, 4e-5);
}

TEST(Gla, OneGateForAllChannelsIsAMaskedAttention) {
  Inputs in = make({.T = 90, .H = 1, .G = 1}, 0.2);
  in[3] = in[3].narrow(-1, 0, 1).expand({1, 90, 1, 6}).contiguous();
  in[4].zero_();
  const Tensor sum = at::cumsum(in[3].select(-1, 0).view({90}), 0);
  const Tensor mask = (sum.unsqueeze(1) - sum.unsqueeze(0)).exp().tril();
  const Tensor q = in[0].view({90, 6}), k = in[1].view({90, 6}), v = in[2].view({90, 5});
  const Tensor wanted = at::matmul(at::matmul(q, k.t()) * mask, v) / std::sqrt(6.0);
  EXPECT_LE(distance(run(ops::gla, in).values[0].view({90, 5}), wanted), 1e-13);
}

TEST(Gla, TwoPartsWithTheStateHandedOnEqualTheWhole) {
  for (const int64_t first : {1, 16, 50, 64, 99}) {
    const Inputs in = make({.B = 2, .T = 100, .H = 2, .G = 1}, 0.1);
    const Outcome whole = run(ops::gla, in);
    Inputs leaves;
    for (const Tensor& x : in) leaves.push_back(x.clone().requires_grad_());
    const auto part = [&](int64_t begin, int64_t length, const Tensor& state) {
      return ops::gla(leaves[0].narrow(1, begin, length), leaves[1].narrow(1, begin, length),
                      leaves[2].narrow(1, begin, length), leaves[3].narrow(1, begin, length), {},
                      state, 1 / std::sqrt(6.0));
    };
    const GlaResult a = part(0, first, leaves[4]);
    const GlaResult b = part(first, 100 - first, a.state_BHKV);
    const Tensor o = at::cat({a.o_BTHV, b.o_BTHV}, 1);
    (o * normal(o.sizes().vec(), "do", at::kBFloat16).to(at::kDouble)).sum().backward({}, true);
    (b.state_BHKV * normal({2, 2, 6, 5}, "ds", at::kBFloat16).to(at::kDouble)).sum().backward();
    EXPECT_LE(distance(o, whole.values[0]), 1e-13);
    EXPECT_LE(distance(b.state_BHKV, whole.values[1]), 1e-13);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_LE(distance(leaves[i].grad(), whole.values[i + 2]), 1e-12) << kNames[i + 2];
    }
  }
}

// dg_t = sum over i >= t of (q_i dq_i - k_i dk_i) + the rows of S_T dS_T
TEST(Gla, GateGradientsAreSumsOfTheOthers) {
  const Inputs in = make({.T = 150, .H = 2, .G = 2}, 0.1);
  const Outcome got = run(ops::gla, in);
  const Tensor own = in[0] * got.values[2] - in[1] * got.values[3];
  const Tensor behind = at::cumsum(own.flip(1), 1).flip(1);
  const Tensor ds = normal({1, 2, 6, 5}, "ds", at::kBFloat16).to(at::kDouble);
  const Tensor end = (got.values[1] * ds).sum(-1).unsqueeze(1);
  EXPECT_LE(distance(got.values[5], behind + end), 1e-12);
}

TEST(Gla, GradientsEqualFiniteDifferences) {
  const Inputs in = make({.T = 70, .H = 2, .G = 1}, 0.3);
  const Tensor segments = segments_of({20, 48, -2});
  const Outcome got = run(ops::gla, in, segments);
  const auto loss = [&](const Inputs& x) {
    const auto out = ops::gla(x[0], x[1], x[2], x[3], segments, x[4], 1 / std::sqrt(6.0));
    return ((out.o_BTHV * normal({1, 70, 2, 5}, "do", at::kBFloat16).to(at::kDouble)).sum() +
            (out.state_BHKV * normal({1, 2, 6, 5}, "ds", at::kBFloat16).to(at::kDouble)).sum())
        .item<double>();
  };
  for (size_t i = 0; i < in.size(); ++i) {
    for (int trial = 0; trial < 3; ++trial) {
      const Tensor step = normal(in[i].sizes().vec(), cat("step", i, trial), at::kDouble);
      Inputs up = in, down = in;
      up[i] = in[i] + step * 1e-6;
      down[i] = in[i] - step * 1e-6;
      const double slope = (loss(up) - loss(down)) / 2e-6;
      const double predicted = (got.values[i + 2] * step).sum().item<double>();
      EXPECT_NEAR(slope, predicted, 1e-5 * (std::abs(predicted) + 1)) << kNames[i + 2];
    }
  }
}

TEST(Gla, Fp32AndBf16AreNearFp64) {
  for (const double strength : {0.025, 0.5, 10.0}) {
    const Sizes n{.B = 1, .T = 500, .H = 2, .G = 2, .K = 64, .V = 64};
    const Outcome wanted = run(ops::gla_recurrent, make(n, strength));
    expect_near(run(ops::gla, make(n, strength, at::kFloat)), wanted, 5e-6, 4e-5,
                cat("fp32, ", strength));
    expect_near(run(ops::gla_composite, make(n, strength, at::kFloat)), wanted, 1e-5, 1e-3,
                cat("composite, ", strength));
    const Outcome narrow = run(ops::gla, make(n, strength, at::kBFloat16));
    EXPECT_EQ(narrow.values[0].scalar_type(), at::kBFloat16);
    EXPECT_EQ(narrow.values[1].scalar_type(), at::kFloat);
    EXPECT_EQ(narrow.values[5].scalar_type(), at::kFloat);
    expect_near(narrow, wanted, 4e-3, 0, cat("bf16, ", strength));
  }
}

// Both forms of the kernel's forward, wherever the choice between them lies.
TEST(Gla, TokenByTokenEqualsChunks) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const int64_t T : {1, 3, 16, 17, 70}) {
      const Inputs in = make({.B = 2, .T = T, .H = 4, .G = 2, .K = 20, .V = 13}, 0.2, dtype);
      const Tensor segments = at::arange(2 * T, at::kInt)
                                  .view({2, T})
                                  .floor_divide(7)
                                  .masked_fill_(at::arange(2 * T).view({2, T}).eq(T / 2), -1);
      const ops::gla_cpu::Inputs call{in[0], in[1], in[2], in[3], segments, in[4], 0.3};
      const auto a = ops::gla_cpu::forward(call), b = ops::gla_cpu::forward_by_tokens(call);
      const double bound = dtype == at::kDouble ? 1e-13 : 2e-6;
      EXPECT_LE(distance(a.o_BTHV, b.o_BTHV), bound) << T;
      EXPECT_LE(distance(a.state_BHKV, b.state_BHKV), bound) << T;
    }
  }
}

TEST(Gla, BitsDoNotDependOnThreads) {
  const int threads = at::get_num_threads();
  const Inputs in = make({.B = 2, .T = 200, .H = 4, .G = 2, .K = 32, .V = 32}, 0.1, at::kFloat);
  at::set_num_threads(1);
  const Outcome one = run(ops::gla, in);
  for (const int n : {2, 3}) {
    at::set_num_threads(n);
    const Outcome several = run(ops::gla, in);
    for (size_t i = 0; i < one.values.size(); ++i) {
      EXPECT_TRUE(bit_equal(several.values[i], one.values[i])) << kNames[i];
    }
  }
  at::set_num_threads(threads);
}

TEST(Gla, WrongShapesAreSaid) {
  const Inputs in = make({.T = 3, .H = 3, .G = 2}, 0.1);
  EXPECT_THROW(ops::gla(in[0], in[1], in[2], in[3], {}, {}, 1), InternalError);
}

}  // namespace gla_test_detail

}  // namespace strata::testing
