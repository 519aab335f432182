// The scans against the recurrence, the mixer against its matrix; chunks, documents, padding,
// decays that leave nothing.
#include "core/ops/ssd.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_matrix_rank.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/ops/quasiseparable.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"
#include "tests/ops/ssd_oracles.h"

namespace strata::testing {

namespace ssd_test_detail {

using ops::quasiseparable;
using ops::ScanInputs;
using ops::ssd;

Tensor steps(const Shape& shape, const std::string& name) {
  return at::softplus(normal(shape, name));
}

TEST(Ssd, EqualsTheRecurrence) {
  for (const int64_t T : {1, 2, 5, 11, 128, 257}) {
    for (const int64_t G : {1, 2, 4}) {
      for (const bool reverse : {false, true}) {
        for (const bool given : {false, true}) {
          const int64_t H = 4, P = 5, N = 3;
          const Inputs inputs = {normal({2, T, H, P}, "x").requires_grad_(),
                                 normal({2, T, H}, "dt").requires_grad_(),
                                 normal({H}, "A").requires_grad_(),
                                 normal({2, T, G, N}, "B").requires_grad_(),
                                 normal({2, T, G, N}, "C").requires_grad_(),
                                 normal({2, H, P, N}, "S").requires_grad_()};
          // y and final state as one tensor, so that both are differentiated.
          const auto all = [&](const auto& scan) {
            return [&, scan](const Inputs& in) {
              const auto r = scan(in[0], at::softplus(in[1]), -in[2].exp(), in[3], in[4],
                                  given ? in[5] : in[5] * 0.0);
              return at::cat({r.y.flatten(1), r.state.flatten(1)}, 1);
            };
          };
          const Result wanted =
              run_with_gradients(all([&](const Tensor& x, const Tensor& dt, const Tensor& A,
                                         const Tensor& B, const Tensor& C, const Tensor& S) {
                                   return ssd_by_token(x, dt, A, B, C, S, reverse);
                                 }),
                                 inputs);
          for (const int64_t Q : {1, 2, 3, 4, 16, 64, 300}) {
            if (T > 100 && (Q < 16 || G == 2)) {
              continue;
            }
            SCOPED_TRACE(cat("T ", T, " G ", G, " reverse ", reverse, " chunk ", Q));
            const Result got = run_with_gradients(
                all([&](const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                        const Tensor& C, const Tensor& S) {
                  return ssd(x, dt, A, B, C, {}, S, {.reverse = reverse, .chunk = Q});
                }),
                inputs);
            EXPECT_LE(distance(got.output, wanted.output), 1e-12);
            for (size_t i = 0; i < inputs.size(); ++i) {
              EXPECT_LE(distance(got.gradients[i], wanted.gradients[i]), 1e-12) << "input " << i;
            }
          }
        }
      }
    }
  }
}

TEST(Ssd, TokensWithoutAStepAreInert) {
  const Tensor x = normal({1, 12, 2, 4}, "x"), B = normal({1, 12, 1, 3}, "B"),
               C = normal({1, 12, 1, 3}, "C"), A = at::full({2}, -1.5, at::kDouble);
  Tensor dt = steps({1, 12, 2}, "dt");
  dt.slice(1, 7, 12).zero_();
  const auto padded = ssd(x, dt, A, B, C, {}, {}, {.chunk = 5});
  const auto alone = ssd(x.slice(1, 0, 7), dt.slice(1, 0, 7), A, B.slice(1, 0, 7), C.slice(1, 0, 7),
                         {}, {}, {.chunk = 5});
  EXPECT_LE(distance(padded.y.slice(1, 0, 7), alone.y), 1e-14);
  EXPECT_LE(distance(padded.state, alone.state), 1e-14);
}

// A decay of e^-500 a token: sums of exponents that only differ in rounding must not overflow, and
// nothing may become not-a-number.
TEST(Ssd, DecaysThatLeaveNothingStayFinite) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto acc = accumulate_dtype(dtype);
    const Inputs inputs = {normal({1, 90, 2, 8}, "x", dtype).requires_grad_(),
                           (steps({1, 90, 2}, "dt") * 50).to(acc).requires_grad_(),
                           at::full({2}, -10.0, at::TensorOptions().dtype(acc)).requires_grad_(),
                           normal({1, 90, 1, 4}, "B", dtype).requires_grad_(),
                           normal({1, 90, 1, 4}, "C", dtype).requires_grad_()};
    const Result result = run_with_gradients(
        [](const Inputs& in) { return ssd(in[0], in[1], in[2], in[3], in[4]).y; }, inputs);
    EXPECT_TRUE(result.output.isfinite().all().item<bool>());
    for (const Tensor& gradient : result.gradients) {
      EXPECT_TRUE(gradient.isfinite().all().item<bool>());
    }
  }
}

TEST(Ssd, RefusesShapesThatDoNotFit) {
  const Tensor x = normal({1, 5, 4, 2}, "x"), dt = steps({1, 5, 4}, "dt"), A = -normal({4}, "A");
  const Tensor B = normal({1, 5, 3, 2}, "B");
  EXPECT_THROW(ssd(x, dt, A, B, B), Error);  // 3 groups do not divide 4 heads
  const Tensor good = normal({1, 5, 2, 2}, "B");
  EXPECT_THROW(ssd(x, dt.slice(1, 0, 4), A, good, good), Error);
  EXPECT_THROW(ssd(x, dt, A, good, good, {}, normal({1, 4, 2, 3}, "S")), Error);
}

struct Mixer {
  int64_t T, H, P, N, G;
  Inputs draw() const {
    return {
        normal({2, T, H, P}, "x").requires_grad_(),  normal({H}, "A").requires_grad_(),
        normal({2, T, H}, "dtf").requires_grad_(),   normal({2, T, G, N}, "Bf").requires_grad_(),
        normal({2, T, G, N}, "Cf").requires_grad_(), normal({2, T, H}, "dtb").requires_grad_(),
        normal({2, T, G, N}, "Bb").requires_grad_(), normal({2, T, G, N}, "Cb").requires_grad_(),
        normal({2, T, H}, "delta").requires_grad_()};
  }
};
ScanInputs scan_of(const Inputs& in, size_t first) {
  return {at::softplus(in[first]), in[first + 1], in[first + 2]};
}

TEST(Quasiseparable, EqualsItsMatrix) {
  for (const int64_t T : {1, 2, 7, 24}) {
    for (const int64_t G : {1, 2}) {
      const Mixer mixer{T, 4, 3, 3, G};
      const Inputs inputs = mixer.draw();
      const Result wanted = run_with_gradients(
          [](const Inputs& in) {
            const Tensor M = mixing_matrix(-in[1].exp(), scan_of(in, 2), scan_of(in, 5), in[8]);
            return at::matmul(M, in[0].transpose(1, 2)).transpose(1, 2);
          },
          inputs);
      for (const int64_t Q : {1, 2, 5, 64}) {
        SCOPED_TRACE(cat("T ", T, " G ", G, " chunk ", Q));
        const Result got = run_with_gradients(
            [&](const Inputs& in) {
              return quasiseparable(in[0], -in[1].exp(), scan_of(in, 2), scan_of(in, 5), in[8], {},
                                    {}, Q);
            },
            inputs);
        EXPECT_LE(distance(got.output, wanted.output), 1e-12);
        for (size_t i = 0; i < inputs.size(); ++i) {
          const Tensor& gradient = wanted.gradients[i];  // of one token the scans have no part
          EXPECT_LE(gradient.defined() ? distance(got.gradients[i], gradient)
                                       : got.gradients[i].norm().item<double>(),
                    1e-12)
              << "input " << i;
        }
      }
    }
  }
}

// The mixer applied to the unit vectors is its matrix: low rank beside the diagonal, which is free.
TEST(Quasiseparable, BlocksBesideTheDiagonalHaveTheRankOfTheState) {
  const int64_t T = 24, N = 3;
  const Mixer mixer{T, 1, T, N, 1};
  Inputs in = mixer.draw();
  Tensor units = at::zeros({2, T, 1, T}, at::kDouble);
  for (int64_t t = 0; t < T; ++t) {
    units.select(1, t).select(2, t).fill_(1.0);
  }
  const Tensor M =
      quasiseparable(units, -in[1].detach().exp(), scan_of(in, 2), scan_of(in, 5), in[8])
          .detach()
          .select(0, 0)
          .select(1, 0);  // [T, T]
  for (const int64_t m : {1, 5, 12, 20}) {
    const auto rank = [](const Tensor& block) {
      return at::linalg_matrix_rank(block, 1e-10).item<int64_t>();
    };
    EXPECT_LE(rank(M.slice(0, m, T).slice(1, 0, m)), N);
    EXPECT_LE(rank(M.slice(0, 0, m).slice(1, m, T)), N);
  }
  EXPECT_LE(distance(M.diagonal(), in[8].select(0, 0).select(1, 0)), 1e-14);
}

TEST(Quasiseparable, ReversedInputsWithScansExchangedGiveReversedOutputs) {
  const Mixer mixer{150, 4, 8, 5, 2};
  const Inputs in = mixer.draw();
  const auto flipped = [](const ScanInputs& s) {
    return ScanInputs{s.dt_BTH.flip(1), s.B_BTGN.flip(1), s.C_BTGN.flip(1)};
  };
  const Tensor A = -in[1].exp();
  const Tensor y = quasiseparable(in[0], A, scan_of(in, 2), scan_of(in, 5), in[8]);
  const Tensor mirrored = quasiseparable(in[0].flip(1), A, flipped(scan_of(in, 5)),
                                         flipped(scan_of(in, 2)), in[8].flip(1));
  EXPECT_LE(distance(mirrored.flip(1), y), 1e-13);
}

TEST(Quasiseparable, ADocumentEqualsASequenceOfItsOwn) {
  const Mixer mixer{40, 2, 4, 3, 1};
  const Inputs in = mixer.draw();
  Tensor segments = at::zeros({2, 40}, at::kInt);
  segments.slice(1, 13, 14).fill_(1);
  segments.slice(1, 14, 33).fill_(2);
  segments.slice(1, 33, 40).fill_(-1);
  const Tensor A = -in[1].exp();
  for (const int64_t Q : {4, 16, 64}) {
    const Tensor packed =
        quasiseparable(in[0], A, scan_of(in, 2), scan_of(in, 5), in[8], segments, {}, Q);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 13}, {13, 14}, {14, 33}}) {
      const auto part = [&, begin = begin, end = end](const ScanInputs& s) {
        return ScanInputs{s.dt_BTH.slice(1, begin, end), s.B_BTGN.slice(1, begin, end),
                          s.C_BTGN.slice(1, begin, end)};
      };
      const Tensor alone =
          quasiseparable(in[0].slice(1, begin, end), A, part(scan_of(in, 2)), part(scan_of(in, 5)),
                         in[8].slice(1, begin, end), {}, {}, Q);
      EXPECT_LE(distance(packed.slice(1, begin, end), alone), 1e-13) << begin << " chunk " << Q;
    }
  }
}

// The state before the first token is read one token later, as everything is.
TEST(Quasiseparable, AnInitialStateReachesTheSecondToken) {
  const Mixer mixer{6, 2, 4, 3, 1};
  const Inputs in = mixer.draw();
  const Tensor A = -in[1].exp(), S = normal({2, 4, 3}, "S");
  const auto f = scan_of(in, 2), b = scan_of(in, 5);
  const Tensor with = quasiseparable(in[0], A, f, b, in[8], {}, S);
  const Tensor without = quasiseparable(in[0], A, f, b, in[8]);
  const Tensor state = S.unsqueeze(0).expand({2, -1, -1, -1});
  const Tensor none = at::zeros_like(in[0]);
  const Tensor zf = ssd_by_token(none, f.dt_BTH, A, f.B_BTGN, f.C_BTGN, state, false).y,
               zb = ssd_by_token(none, b.dt_BTH, A, b.B_BTGN, b.C_BTGN, state, true).y;
  const Tensor row = at::zeros_like(zf.slice(1, 0, 1));
  const Tensor wanted = at::cat({row, zf.slice(1, 0, 5)}, 1) + at::cat({zb.slice(1, 1, 6), row}, 1);
  EXPECT_LE(distance(with - without, wanted), 1e-12);
}

}  // namespace ssd_test_detail

}  // namespace strata::testing
