#include "core/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace attention_test_detail {

struct Qkv {
  Tensor q, k, v;
};
Qkv make(int64_t B, int64_t T, int64_t H, int64_t G, int64_t K,
         at::ScalarType dtype = at::kDouble) {
  return {normal({B, T, H, K}, "q", dtype), normal({B, T, G, K}, "k", dtype),
          normal({B, T, G, K}, "v", dtype)};
}

// One query row with scalars: sees[s] tells whether key s counts.
std::vector<double> by_definition(const Qkv& x, int64_t b, int64_t t, int64_t h, double scale,
                                  const std::function<bool(int64_t)>& sees) {
  const int64_t K = x.q.size(3), g = h / (x.q.size(2) / x.k.size(2));
  std::vector<double> weights(static_cast<size_t>(t + 1), 0.0), out(static_cast<size_t>(K), 0.0);
  double sum = 0;
  for (int64_t s = 0; s <= t; ++s) {
    if (sees(s)) {
      weights[static_cast<size_t>(s)] =
          std::exp(scale * (x.q[b][t][h] * x.k[b][s][g]).sum().item<double>());
      sum += weights[static_cast<size_t>(s)];
    }
  }
  for (int64_t s = 0; s <= t; ++s) {
    for (int64_t i = 0; i < K; ++i) {
      out[static_cast<size_t>(i)] +=
          weights[static_cast<size_t>(s)] / sum * x.v[b][s][g][i].item<double>();
    }
  }
  return out;
}

TEST(Attention, EqualsTheDefinitionWithScalars) {
  const Qkv x = make(2, 9, 4, 2, 5);
  const Tensor segments =
      at::tensor({0, 0, 0, 1, 1, 2, 2, -1, -1, 4, 4, 4, 4, 4, 4, 4, 4, -1}, at::kInt).view({2, 9});
  const int* s = segments.const_data_ptr<int>();
  for (const bool packed : {false, true}) {
    for (const bool fast : {false, true}) {
      const auto op = fast ? ops::causal_attention : ops::causal_attention_composite;
      const Tensor y = op(x.q, x.k, x.v, packed ? segments : Tensor(), 0.4, {});
      ASSERT_TRUE(y.is_contiguous());
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t t = 0; t < 9; ++t) {
          for (int64_t h = 0; h < 4; ++h) {
            const auto wanted = by_definition(x, b, t, h, 0.4, [&](int64_t other) {
              return !packed || other == t ||
                     (s[b * 9 + t] == s[b * 9 + other] && s[b * 9 + t] != -1);
            });
            for (int64_t i = 0; i < 5; ++i) {
              ASSERT_NEAR(y[b][t][h][i].item<double>(), wanted[static_cast<size_t>(i)], 1e-13)
                  << b << t << h << i;
            }
          }
        }
      }
    }
  }
}

TEST(Attention, GroupsEqualRepeatedHeads) {
  const Qkv x = make(2, 30, 6, 2, 16);
  const Tensor k = x.k.repeat_interleave(3, 2), v = x.v.repeat_interleave(3, 2);
  EXPECT_LE(distance(ops::causal_attention(x.q, x.k, x.v, {}, 0.25),
                     ops::causal_attention(x.q, k, v, {}, 0.25)),
            1e-15);
}

TEST(Attention, PackedDocumentsEqualSeparateOnes) {
  const Qkv x = make(1, 40, 4, 2, 16);
  Tensor segments = at::full({1, 40}, 3, at::kInt);
  segments.slice(1, 0, 13).fill_(8);
  segments.slice(1, 37, 40).fill_(-1);
  const Tensor packed = ops::causal_attention(x.q, x.k, x.v, segments, 0.25);
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>{0, 13}, {13, 37}, {37, 38}, {38, 39}, {39, 40}}) {
    const Tensor alone = ops::causal_attention(x.q.slice(1, begin, end), x.k.slice(1, begin, end),
                                               x.v.slice(1, begin, end), {}, 0.25);
    EXPECT_LE(distance(packed.slice(1, begin, end), alone), 1e-14) << begin;
  }
}

TEST(Attention, LaterTokensChangeNothing) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Qkv x = make(1, 50, 2, 2, 16, dtype);
    const Tensor y = ops::causal_attention(x.q, x.k, x.v, {}, 0.25);
    const Tensor k = x.k.clone(), v = x.v.clone();
    k.slice(1, 31).fill_(100.0);
    v.slice(1, 31).fill_(-100.0);
    const Tensor changed = ops::causal_attention(x.q, k, v, {}, 0.25);
    EXPECT_TRUE(bit_equal(changed.slice(1, 0, 31), y.slice(1, 0, 31))) << dtype_name(dtype);
    EXPECT_FALSE(bit_equal(changed.slice(1, 31), y.slice(1, 31)));
  }
}

TEST(Attention, LargeScoresStayFinite) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Qkv x = make(2, 20, 2, 1, 8, dtype);
    const Inputs inputs = {(x.q * 1e4).requires_grad_(), (x.k * 1e4).requires_grad_(),
                           x.v.clone().requires_grad_()};
    Tensor segments = at::full({2, 20}, 1, at::kInt);
    segments.slice(1, 9, 14).fill_(-1);
    for (const Tensor& s : {Tensor(), segments}) {
      const Result result = run_with_gradients(
          [&](const Inputs& in) { return ops::causal_attention(in[0], in[1], in[2], s, 1.0); },
          inputs);
      EXPECT_TRUE(result.output.isfinite().all().item<bool>());
      for (const Tensor& gradient : result.gradients) {
        EXPECT_TRUE(gradient.isfinite().all().item<bool>());
      }
      EXPECT_LE(result.output.abs().max().item<double>(), x.v.abs().max().item<double>() * 1.01);
    }
  }
}

TEST(Attention, DropoutFollowsTheWordsOfItsElements) {
  const int64_t B = 2, T = 7, H = 3, total = 8;
  const ops::AttentionDropout dropout{.prob = 0.4,
                                      .seed = 6,
                                      .name = "model.layers.2.attn",
                                      .step = 5,
                                      .first_row = 3,
                                      .first_head = 4,
                                      .total_heads = total};
  // Zero scores make equal weights 1 / (t + 1); the value of token s is the s-th unit vector.
  Qkv x = make(B, T, H, H, T);
  x.q.zero_();
  x.v.zero_();
  for (int64_t s = 0; s < T; ++s) {
    x.v.select(1, s).select(2, s).fill_(1.0);
  }
  const Rng rng(dropout.seed, "dropout", dropout.name);
  const auto threshold = static_cast<uint32_t>(std::floor(dropout.prob * 4294967296.0));
  const Tensor y = ops::causal_attention(x.q, x.k, x.v, {}, 1.0, dropout);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t h = 0; h < H; ++h) {
        for (int64_t s = 0; s < T; ++s) {
          const int64_t element = ((3 + b) * total + 4 + h) * T * T + t * T + s;
          const bool keep =
              s <= t && rng.dropout_word(static_cast<uint64_t>(element), 5) >= threshold;
          ASSERT_NEAR(y[b][t][h][s].item<double>(),
                      keep ? 1 / (0.6 * static_cast<double>(t + 1)) : 0.0, 1e-14);
        }
      }
    }
  }
}

TEST(Attention, HeadsOnTwoRanksDropWhatOneRankDrops) {
  const Qkv x = make(2, 12, 4, 4, 8);
  ops::AttentionDropout dropout{
      .prob = 0.3, .seed = 6, .name = "attn", .step = 1, .total_heads = 4};
  const Tensor whole = ops::causal_attention(x.q, x.k, x.v, {}, 0.3, dropout);
  dropout.first_head = 2;
  const Tensor half =
      ops::causal_attention(x.q.slice(2, 2), x.k.slice(2, 2), x.v.slice(2, 2), {}, 0.3, dropout);
  EXPECT_LE(distance(half, whole.slice(2, 2)), 1e-15);
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  const Qkv x = make(2, 6, 4, 2, 8);
  EXPECT_THROW(ops::causal_attention(x.q.slice(2, 0, 3), x.k, x.v, {}, 1.0), InternalError);
  EXPECT_THROW(ops::causal_attention(x.q, x.k.slice(1, 0, 5), x.v, {}, 1.0), InternalError);
  EXPECT_THROW(ops::causal_attention(x.q, x.k, x.v, at::full({2, 5}, 0, at::kInt), 1.0),
               InternalError);
}

}  // namespace attention_test_detail

}  // namespace strata::testing
