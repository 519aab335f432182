#include "core/ops/embedding.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/rng.h"

namespace strata {
namespace {

Tensor random(const Shape& shape, const char* name) {
  Tensor out = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
  Rng(4, "data", name).fill_normal(0, out.numel(), out.data_ptr<float>());
  return out.to(at::kDouble);
}

Tensor some_tokens(int64_t rows, int64_t length, int64_t vocabulary) {
  Tensor out = at::zeros({rows, length}, at::TensorOptions().dtype(at::kLong));
  const Rng rng(4, "data", "tokens");
  for (int64_t i = 0; i < out.numel(); ++i) out.data_ptr<int64_t>()[i] = rng.word(i) % vocabulary;
  return out;
}

TEST(Embedding, EqualsTheLibraryOne) {
  const Tensor tokens = some_tokens(3, 50, 11), dy = random({3, 50, 70}, "dy");
  Tensor a = random({11, 70}, "w").requires_grad_(), b = a.detach().clone().requires_grad_();
  const Tensor y = ops::embedding(a, tokens), z = at::embedding(b, tokens);
  EXPECT_TRUE(y.equal(z));
  y.backward(dy);
  z.backward(dy);
  EXPECT_LE((a.grad() - b.grad()).abs().max().item<double>(), 1e-12);
}

TEST(Embedding, PartsOfATableAddUpToIt) {
  const Tensor tokens = some_tokens(2, 40, 11), dy = random({2, 40, 8}, "dy"),
               table = random({11, 8}, "w");
  Tensor whole = table.clone().requires_grad_();
  ops::embedding(whole, tokens).backward(dy);
  Tensor sum = at::zeros({2, 40, 8}, dy.options());
  std::vector<Tensor> gradients;
  for (const auto& [begin, end] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 6}, {6, 11}, {11, 11}}) {
    Tensor part = table.narrow(0, begin, end - begin).clone().requires_grad_();
    const Tensor y = ops::embedding(part, tokens, begin);
    sum = sum + y.detach();
    y.backward(dy);
    gradients.push_back(part.grad());
  }
  EXPECT_TRUE(sum.equal(ops::embedding(table, tokens)));
  EXPECT_TRUE(at::cat(gradients, 0).equal(whole.grad()));
}

// 4096 equal tokens: adding in bf16 would stop growing at 256.
TEST(Embedding, SixteenBitGradientsAreSummedWide) {
  const Tensor tokens = at::zeros({4096}, at::TensorOptions().dtype(at::kLong));
  Tensor w = at::zeros({2, 3}, at::TensorOptions().dtype(at::kBFloat16)).requires_grad_();
  ops::embedding(w, tokens).backward(at::zeros({4096, 3}, w.options().requires_grad(false)) + 1);
  EXPECT_EQ(w.grad()[0][0].item<double>(), 4096);
  EXPECT_EQ(w.grad()[1][0].item<double>(), 0);
}

TEST(Embedding, ThreadsDoNotChangeTheSum) {
  const Tensor tokens = some_tokens(8, 100, 5), dy = random({8, 100, 300}, "dy").to(at::kFloat);
  const int threads = at::get_num_threads();
  std::vector<Tensor> gradients;
  for (int n : {1, 2, 3}) {
    at::set_num_threads(n);
    Tensor w = at::zeros({5, 300}, dy.options()).requires_grad_();
    ops::embedding(w, tokens).backward(dy);
    gradients.push_back(w.grad());
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(gradients[0].equal(gradients[1]));
  EXPECT_TRUE(gradients[0].equal(gradients[2]));
}

}  // namespace
}  // namespace strata
