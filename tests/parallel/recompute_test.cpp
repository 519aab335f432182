// What selective recomputation keeps, in bytes of live tensors, and that it changes no bit.
#include "parallel/nn/recompute.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "core/memory_meter.h"
#include "core/text.h"
#include "models/gpt2/block.h"
#include "models/llama/block.h"
#include "tests/support/lone_layer.h"

namespace strata::testing {
namespace recompute_test_detail {

constexpr int64_t kRows = 2, kLength = 48, kWidth = 64, kInner = 160, kHeads = 4;
constexpr int64_t kActivation = kRows * kLength * kWidth * 8;  // bytes of a fp64 [B, T, D]

LlamaConfig llama(double dropout) {
  LlamaConfig c;
  c.hidden_size = kWidth;
  c.intermediate_size = kInner;
  c.num_attention_heads = kHeads;
  c.max_position_embeddings = kLength;
  c.attention_dropout = dropout;
  return c;
}

Gpt2Config gpt2(double dropout) {
  Gpt2Config c;
  c.n_embd = kWidth;
  c.n_inner = kInner;
  c.n_head = kHeads;
  c.n_positions = kLength;
  c.attn_pdrop = dropout;
  return c;
}

struct Subject {
  std::string name;
  LoneLayer::Make make;
  bool selective;         // offered for recomputation
  int64_t kept_at_least;  // bytes without recomputation
};

std::vector<Subject> subjects() {
  const int64_t inner = kActivation * kInner / kWidth;
  const int64_t pairs = kRows * kHeads * kLength * kLength * 8;
  std::vector<Subject> out;
  out.push_back(
      {"llama mlp",
       [](const ParallelLayout& layout) {
         return std::make_shared<SwigluMlp>(
             kWidth, kInner,
             [](const std::string&) { return LinearOptions{.bias = true, .init_std = 0.2}; },
             layout);
       },
       true, 3 * inner});
  out.push_back(
      {"gpt2 mlp",
       [](const ParallelLayout& layout) { return std::make_shared<Gpt2Mlp>(gpt2(0), layout); },
       true, 2 * inner});
  for (const double dropout : {0.0, 0.2}) {
    const int64_t kept = 4 * kActivation + (dropout > 0 ? 2 * pairs : 0);
    out.push_back({cat("llama attention with dropout ", dropout),
                   [=](const ParallelLayout& layout) {
                     return std::make_shared<LlamaAttention>(llama(dropout), layout);
                   },
                   dropout > 0, kept});
    out.push_back({cat("gpt2 attention with dropout ", dropout),
                   [=](const ParallelLayout& layout) {
                     return std::make_shared<Gpt2Attention>(gpt2(dropout), 0, layout);
                   },
                   dropout > 0, kept});
  }
  return out;
}

Batch training_batch() {
  Batch batch;
  batch.tokens = at::empty({kRows, kLength}, at::TensorOptions().dtype(at::kLong));
  batch.positions = default_positions(kRows, kLength);
  batch.training = true;
  return batch;
}

Tensor input() { return normal_values({kRows, kLength, kWidth}, 1).requires_grad_(); }

// Bytes that the graph of one forward holds beside input and output.
int64_t kept_bytes(LoneLayer& layer, const Tensor& x, const Batch& batch) {
  const int64_t before = memory_meter::live_bytes();
  const Tensor y = layer.forward(x, batch);
  return memory_meter::live_bytes() - before - static_cast<int64_t>(y.nbytes());
}

TEST(SelectiveRecompute, OnlyTheInputOfOfferedRegionsIsKept) {
  memory_meter::install();
  for (const Subject& subject : subjects()) {
    LoneLayer all(subject.make, "region.", {}, nullptr);
    LoneLayer some(subject.make, "region.", {.recompute = Recompute::Selective}, nullptr);
    const Tensor x = input();
    const Batch batch = training_batch();
    const int64_t kept = kept_bytes(all, x, batch);
    EXPECT_GE(kept, subject.kept_at_least) << subject.name;
    EXPECT_EQ(kept_bytes(some, x, batch), subject.selective ? 0 : kept) << subject.name;
    const at::NoGradGuard no_grad;
    EXPECT_EQ(kept_bytes(some, x, batch), 0) << subject.name;
    EXPECT_FALSE(some.forward(x, batch).requires_grad()) << subject.name;
  }
}

TEST(SelectiveRecompute, NothingOutlivesTheBackward) {
  memory_meter::install();
  for (const Subject& subject : subjects()) {
    LoneLayer some(subject.make, "region.", {.recompute = Recompute::Selective}, nullptr);
    const Batch batch = training_batch();
    const Tensor x = input();
    const int64_t before = memory_meter::live_bytes();
    {
      const Tensor y = some.forward(x, batch);
      y.backward(y.detach());
    }
    int64_t gradients = static_cast<int64_t>(x.grad().nbytes());
    for (Parameter* p : some.parameters()) {
      gradients += static_cast<int64_t>(p->value.grad().nbytes());
    }
    EXPECT_EQ(memory_meter::live_bytes() - before, gradients) << subject.name;
  }
}

// An input without a gradient, as in a first layer: the parameters' gradients are there all the
// same.
TEST(SelectiveRecompute, ParametersHaveGradientsWhereTheInputHasNone) {
  for (const Subject& subject : subjects()) {
    LoneLayer all(subject.make, "region.", {}, nullptr);
    LoneLayer some(subject.make, "region.", {.recompute = Recompute::Selective}, nullptr);
    const Tensor x = input().detach();
    for (LoneLayer* layer : {&all, &some}) {
      const Tensor y = layer->forward(x, training_batch());
      y.backward(y.detach());
    }
    for (size_t i = 0; i < all.parameters().size(); ++i) {
      const Tensor& got = some.parameters()[i]->value.grad();
      ASSERT_TRUE(got.defined()) << subject.name;
      EXPECT_TRUE(got.equal(all.parameters()[i]->value.grad()))
          << subject.name << " " << all.parameters()[i]->meta.name;
    }
    EXPECT_FALSE(x.grad().defined());
  }
}

TEST(SelectiveRecompute, GradientsAddUpOverSeveralBackwards) {
  const Tensor w = normal_values({8}, 3).requires_grad_();
  const auto square = [&](const Tensor& x) { return x * w * w; };
  const Tensor x = normal_values({8}, 4).requires_grad_();
  const Tensor first = recomputed(x, square), second = recomputed(x * 2, square);
  (first + second).sum().backward();
  const Tensor gradient = w.grad().clone();
  w.mutable_grad().reset();
  (square(x) + square(x * 2)).sum().backward();
  EXPECT_LE((gradient - w.grad()).abs().max().item<double>(), 1e-14);
}

}  // namespace recompute_test_detail
}  // namespace strata::testing
