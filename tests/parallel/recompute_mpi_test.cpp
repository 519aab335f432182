// Selective recomputation gives every gradient of the same layout without it, to the last bit:
// blocks of every model at each tp, tokens whole or cut, and a region with a collective inside.
#include <ATen/TensorOperators.h>
#include <ATen/ops/relu.h>
#include <gtest/gtest.h>

#include "core/text.h"
#include "tests/support/lone_layer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/tiny_models.h"

namespace strata::testing {
namespace recompute_mpi_detail {

constexpr int64_t kRows = 3, kLength = 20, kWidth = 32;
const Shape kBoundary = {kRows, kLength, kWidth};

void expect_same_bits(CommPool& pool, const LoneLayer::Make& make, const std::string& prefix,
                      const Batch& batch, const std::string& what, const Shape& in = kBoundary,
                      const Shape& out = kBoundary) {
  for (const bool sequence_parallel : {false, true}) {
    for (const auto dtype : {at::kDouble, at::kBFloat16}) {
      LayerStrategy strategy{.tp = pool.job().size(), .sequence_parallel = sequence_parallel};
      LoneLayer all(make, prefix, strategy, &pool, dtype);
      strategy.recompute = Recompute::Selective;
      LoneLayer some(make, prefix, strategy, &pool, dtype);
      const Tensor x = all.own_tokens(normal_values(in, 1, dtype));
      const Tensor dy = all.own_tokens(normal_values(out, 2, dtype));
      const LoneResult a = all.run(x, batch, dy), b = some.run(x, batch, dy);
      const std::string which =
          cat(what, sequence_parallel ? " cut tokens " : " ", dtype_name(dtype));
      EXPECT_TRUE(b.y.equal(a.y)) << which;
      EXPECT_TRUE(b.dx.equal(a.dx)) << which;
      EXPECT_EQ(b.gradients.size(), a.gradients.size()) << which;
      for (const auto& [name, gradient] : a.gradients) {
        EXPECT_TRUE(b.gradients.at(name).equal(gradient)) << which << " " << name;
      }
    }
  }
}

// Two cut pairs, the first completed by a sum over tp inside; the first norm is used twice.
class TwoPairs final : public Region {
 public:
  explicit TwoPairs(const ParallelLayout& layout) : Region(layout) {
    const LinearOptions options{.bias = true, .init_std = 0.2, .bias_init = Init::normal(0.2)};
    for (const int i : {0, 1}) {
      up_[i] = linear(cat("up", i), kWidth, 48, split_out(), options);
      down_[i] = linear(cat("down", i), 48, kWidth, split_in(), {.init_std = 0.2});
    }
    norm_ = rms_norm("norm", kWidth, 1e-5);
  }
  Tensor forward(const Tensor& x, const Batch&) override {
    const Tensor h = tp().all_reduce(down_[0](at::relu(up_[0](norm_(x)))));
    return down_[1](at::relu(up_[1](norm_(h))));
  }
  bool recompute_selectively() const override { return true; }

 private:
  Linear up_[2], down_[2];
  RmsNorm norm_;
};

TEST(SelectiveRecomputeMpi, BlocksHaveTheSameGradientsToTheLastBit) {
  CommPool pool(make_mpi_communicator());
  for (const TinyModel& model : tiny_models()) {
    const auto spec = make_tiny(model);
    for (const bool packed : {false, true}) {
      Batch batch = tiny_rows(spec->vocabulary(), 4, 4 + kRows, kLength, /*step=*/2, packed);
      batch.training = true;
      expect_same_bits(
          pool, [&](const ParallelLayout& layout) { return spec->make_layer(1, layout); },
          spec->parameter_prefix(1), batch, cat(model.name, packed ? " packed" : ""),
          spec->boundary(0, kRows, kLength), spec->boundary(1, kRows, kLength));
    }
  }
}

TEST(SelectiveRecomputeMpi, CollectivesInsideAreRepeated) {
  CommPool pool(make_mpi_communicator());
  expect_same_bits(
      pool, [](const ParallelLayout& layout) { return std::make_shared<TwoPairs>(layout); },
      "region.", Batch(), "two pairs");
}

}  // namespace recompute_mpi_detail
}  // namespace strata::testing
