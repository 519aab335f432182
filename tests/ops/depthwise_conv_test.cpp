// Against LibTorch's grouped convolution, and in pieces as generation calls it.
#include "core/ops/depthwise_conv.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace depthwise_conv_test_detail {

using ops::depthwise_conv;
using ops::Padding;

// conv1d pads both sides alike: of W - 1 zeros on each the causal form keeps the first T results.
Tensor reference(const Tensor& x, const Tensor& weight, const Tensor& bias, Padding padding,
                 bool silu) {
  const int64_t W = weight.size(2), C = x.size(2), T = x.size(1);
  const int64_t zeros = padding == Padding::Causal ? W - 1 : W / 2;
  Tensor y = at::conv1d(x.transpose(1, 2), weight, bias, 1, zeros, 1, C).slice(2, 0, T);
  y = y.transpose(1, 2);
  return silu ? at::silu(y) : y;
}

TEST(DepthwiseConv, EqualsGroupedConvolution) {
  for (const Padding padding : {Padding::Causal, Padding::Same}) {
    for (const int64_t W : {1, 2, 3, 4, 5, 7, 31}) {
      if (padding == Padding::Same && W % 2 == 0) {
        continue;
      }
      for (const int64_t T : {1, 2, 64, 65, 200}) {
        SCOPED_TRACE(cat(W, " taps, ", T, " tokens"));
        const Inputs inputs = {normal({2, T, 21}, "x").requires_grad_(),
                               normal({21, 1, W}, "weight").requires_grad_(),
                               normal({21}, "bias").requires_grad_()};
        const Result got = run_with_gradients(
            [&](const Inputs& in) { return depthwise_conv(in[0], in[1], in[2], padding, true).y; },
            inputs);
        const Result wanted = run_with_gradients(
            [&](const Inputs& in) { return reference(in[0], in[1], in[2], padding, true); },
            inputs);
        EXPECT_LE(distance(got.output, wanted.output), 1e-13);
        for (size_t i = 0; i < inputs.size(); ++i) {
          EXPECT_LE(distance(got.gradients[i], wanted.gradients[i]), 1e-13) << "input " << i;
        }
      }
    }
  }
}

TEST(DepthwiseConv, PiecesWithTailsEqualTheWhole) {
  const Tensor x = normal({2, 23, 10}, "x"), weight = normal({10, 1, 4}, "weight"),
               bias = normal({10}, "bias");
  const Tensor whole = depthwise_conv(x, weight, bias, Padding::Causal, true).y;
  Tensor tail;
  std::vector<Tensor> pieces;
  int64_t at = 0;
  for (const int64_t tokens : {1, 1, 2, 9, 3, 7}) {
    const auto part =
        depthwise_conv(x.slice(1, at, at + tokens), weight, bias, Padding::Causal, true, {}, tail);
    ASSERT_EQ(part.tail.sizes(), at::IntArrayRef({2, 3, 10}));
    pieces.push_back(part.y);
    tail = part.tail;
    at += tokens;
  }
  EXPECT_TRUE(bit_equal(at::cat(pieces, 1), whole));
}

TEST(DepthwiseConv, ASegmentEqualsASequenceOfItsOwn) {
  for (const Padding padding : {Padding::Causal, Padding::Same}) {
    const Tensor x = normal({1, 12, 10}, "x"), weight = normal({10, 1, 3}, "weight"),
                 bias = normal({10}, "bias");
    const Tensor segments = at::tensor({0, 0, 0, 0, 1, 2, 2, 2, 2, 2, -1, -1}, at::kInt);
    const auto packed = depthwise_conv(x, weight, bias, padding, true, segments.unsqueeze(0));
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 5}, {5, 10}}) {
      const Tensor alone = depthwise_conv(x.slice(1, begin, end), weight, bias, padding, true).y;
      EXPECT_TRUE(bit_equal(packed.y.slice(1, begin, end), alone)) << begin;
    }
    EXPECT_EQ(packed.y.slice(1, 10).count_nonzero().item<int64_t>(), 0);
  }
}

TEST(DepthwiseConv, RefusesWhatItCannotPad) {
  const Tensor x = normal({1, 5, 4}, "x");
  EXPECT_THROW(depthwise_conv(x, normal({4, 1, 4}, "w"), {}, Padding::Same, false), Error);
  EXPECT_THROW(depthwise_conv(x, normal({3, 1, 4}, "w"), {}, Padding::Causal, false), Error);
  EXPECT_THROW(depthwise_conv(x, normal({4, 1, 3}, "w"), {}, Padding::Same, false, {},
                              normal({1, 2, 4}, "tail")),
               Error);
}

}  // namespace depthwise_conv_test_detail

}  // namespace strata::testing
