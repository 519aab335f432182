// The integer test (parallel-runtime.md 15.3): a model all of whose numbers are small integers
// times a power of two, so that every sum is exact in every order. Loss, norm and gradients must be
// equal bit for bit in every layout, also in bf16: any difference is an error of logic, not of
// rounding.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/rng.h"
#include "core/text.h"
#include "parallel/nn/embedding.h"
#include "tests/layouts/compare.h"
#include "tests/support/mpi_main.h"

namespace strata::testing {
namespace integer_detail {

// B batch, T time, D width, F hidden width
constexpr int64_t kWidth = 4, kHidden = 8, kVocabulary = 16, kLength = 4, kRows = 4;

Init integers(const std::string& name) {
  const Rng rng(3, "init", name);
  return Init::of(
      [rng](int64_t e) { return static_cast<double>(rng.word(static_cast<uint64_t>(e)) % 3) - 1; });
}

class IntegerMixer final : public Region {
 public:
  IntegerMixer(int block, const ParallelLayout& layout) : Region(layout) {
    up_ = param("up", {kHidden, kWidth}, split_out(2), integers(cat("up", block)),
                {.kind = ParamKind::Matrix});
    down_ = param("down", {kWidth, kHidden}, split_in(2), integers(cat("down", block)),
                  {.kind = ParamKind::Matrix});
  }
  Tensor forward(const Tensor& x_BTD, const Batch&) override {
    return x_BTD.matmul(up_.t()).relu().matmul(down_.t());
  }

 private:
  Tensor up_, down_;
};

class IntegerBlock final : public Layer {
 public:
  IntegerBlock(int block, const ParallelLayout& layout) : Layer(layout) {
    mixer_ = add<IntegerMixer>("mixer", block, layout);
  }
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override {
    return (*mixer_)(x_BTD, batch);
  }

 private:
  std::shared_ptr<IntegerMixer> mixer_;
};

// Sum over tokens and features of c * y, where c in {-1, 0, 1} depends on the global row.
class IntegerHead final : public Layer {
 public:
  explicit IntegerHead(const ParallelLayout& layout) : Layer(layout) {}
  Tensor forward(const Tensor& x, const Batch& batch) override {
    const Tensor y_BTD = identical_enter(x, layout()).to(accumulate_dtype(x.scalar_type()));
    Tensor c_BTD = at::empty(y_BTD.sizes(), y_BTD.options().dtype(at::kDouble));
    const Rng rng(3, "test", "head");
    double* c = c_BTD.mutable_data_ptr<double>();
    for (int64_t b = 0; b < y_BTD.size(0); ++b) {
      for (int64_t i = 0; i < kLength * kWidth; ++i)
        *c++ =
            static_cast<double>(
                rng.word(static_cast<uint64_t>((batch.first_row + b) * kLength * kWidth + i)) % 3) -
            1;
    }
    const Tensor loss = (y_BTD * c_BTD.to(y_BTD.scalar_type())).sum();
    return at::stack({loss, at::zeros({}, loss.options())});
  }
};

class IntegerSpec final : public ModelSpec {
 public:
  explicit IntegerSpec(int blocks) : blocks_(blocks) {}
  std::string family() const override { return "integers"; }
  int layer_count() const override { return blocks_ + 2; }
  std::string layer_name(int layer) const override { return cat("layer", layer); }
  std::string cost_class(int layer) const override { return layer_name(layer); }
  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    if (layer == layer_count() - 1) return std::make_shared<IntegerHead>(layout);
    if (layer > 0) return std::make_shared<IntegerBlock>(layer, layout);
    EmbeddingOptions options;
    options.init_std = 0;  // overwritten below
    return std::make_shared<EmbeddingLayer>(kVocabulary, kWidth, options, layout);
  }
  Shape boundary(int, int64_t rows, int64_t time) const override { return {rows, time, kWidth}; }
  double flops_per_token(int, int64_t) const override { return 0; }
  int64_t vocabulary() const override { return kVocabulary; }
  std::string foreign_config() const override { return "{}"; }

 private:
  int blocks_;
};

// Initial values, with integers in the embedding too.
class IntegerWeights final : public WeightSource {
 public:
  Tensor read(const Parameter& p, const Box& box, at::ScalarType dtype) const override {
    return initial_values(p.meta, integers(p.meta.name), 3, box, dtype);
  }
  std::string description() const override { return "integers"; }
};

struct Exact {
  double loss = 0, norm = 0;
  std::map<std::string, Tensor> gradients;
};

Exact run(int blocks, const RunSetup& setup, std::unique_ptr<Communicator> job) {
  ModelRun run(std::make_shared<IntegerSpec>(blocks), setup, std::move(job));
  ParallelManager& manager = run.manager();
  const IntegerWeights source;
  manager.load_weights(source);
  run.optimizer().load_masters(source);
  std::vector<Batch> batches;
  for (int64_t m = 0; m < setup.microbatches; ++m) {
    const Range rows = manager.rows_needed(m);
    Batch batch = tiny_rows(kVocabulary, rows.begin, rows.end, kLength, 0, false);
    // Each token once in kRows rows, so that no sum in the embedding's gradient is long.
    for (int64_t b = 0; b < batch.rows(); ++b) {
      for (int64_t t = 0; t < kLength; ++t)
        batch.tokens[b][t] = ((rows.begin + b) * kLength + t) % kVocabulary;
    }
    batch.labels = batch.tokens;
    batches.push_back(std::move(batch));
  }
  const StepReport report = run.optimizer().step({0, 0.0}, manager.forward_backward(batches));
  return {report.loss, report.grad_norm, run.gradients()};
}

void expect_exact(const LayoutRow& row, int blocks, at::ScalarType dtype) {
  RunSetup setup = row.setup();
  setup.dtype = dtype;
  setup.length = kLength;
  setup.global_batch = kRows * setup.microbatches;
  SCOPED_TRACE(cat(row.text(), " ", dtype_name(dtype)));
  const Exact here = run(blocks, setup, make_mpi_communicator());
  if (test::world_rank() != 0) return;
  const Exact one = run(blocks, setup.serial(), make_self_communicator());
  EXPECT_EQ(here.loss, one.loss);
  EXPECT_EQ(here.norm, one.norm);
  for (const auto& [name, g] : one.gradients) {
    EXPECT_GT(g.norm().item<double>(), 0) << name;
    EXPECT_TRUE(g.equal(here.gradients.at(name))) << name;
  }
}

}  // namespace integer_detail

using namespace integer_detail;

TEST(Integers, EveryLayoutGivesTheSameBits) {
  int rows = 0;
  for (LayoutRow row : pairwise_rows()) {
    if (row.world() != test::world_size()) continue;
    const RunSetup setup = row.setup();
    const int parts = setup.pp * setup.chunks;
    if (parts <= 4) expect_exact(row, 2, at::kFloat);
    if (parts <= 3) expect_exact(row, 1, at::kBFloat16);
    rows += parts <= 4;
  }
  if (test::world_rank() == 0) std::cout << rows << " layouts\n";
}

}  // namespace strata::testing
