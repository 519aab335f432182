// Reading parity folders, padding their batches, judging results.
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "launch/parity_case.h"
#include "launch/parity_report.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace {

using launch_test::TempFolder;

TEST(ParityReportTest, JudgesRelativeErrors) {
  ParityReport report(1e-6);
  report.compare("exact", at::full({3}, 2.0, at::kDouble), at::full({3}, 2.0, at::kDouble));
  report.compare("near", 1.0 + 1e-9, 1.0);
  EXPECT_TRUE(report.passed());
  report.compare("far", at::full({3}, 2.1, at::kDouble), at::full({3}, 2.0, at::kDouble));
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(report.table().find("  FAIL  far"), 0u) << "the worst comes first:\n" << report.table();
}

TEST(ParityReportTest, WhatIsZeroIsComparedAbsolutely) {
  ParityReport report(1e-6);
  const Tensor noise = at::full({4}, 1e-19, at::kDouble),
               other = at::full({4}, -3e-19, at::kDouble);
  report.compare("zero", other, noise, 1e-8);
  EXPECT_TRUE(report.passed()) << report.table();
}

TEST(ParityReportTest, MissingShapesAndNanFail) {
  for (int kind = 0; kind < 3; ++kind) {
    ParityReport report(1e9);
    if (kind == 0) report.fail("grad.x", "not there");
    if (kind == 1)
      report.compare("shape", at::full({2}, 1.0, at::kDouble), at::full({3}, 1.0, at::kDouble));
    if (kind == 2)
      report.compare("nan", at::full({2}, std::nan(""), at::kDouble),
                     at::full({2}, 1.0, at::kDouble));
    EXPECT_FALSE(report.passed()) << kind;
    const auto json = nlohmann::json::parse("{" + report.json_members() + "}");
    EXPECT_FALSE(json["passed"].get<bool>());
    EXPECT_FALSE(json["checks"][0]["ok"].get<bool>());
  }
  EXPECT_FALSE(ParityReport(1).passed()) << "nothing compared is nothing proved";
}

Batch two_rows() {
  Batch batch;
  batch.tokens = at::arange(10, at::kLong).reshape({2, 5});
  batch.labels = batch.tokens + 1;
  batch.positions = default_positions(2, 5);
  return batch;
}

TEST(PadBatchTest, AddedPlacesCarryNoLabel) {
  const Batch padded = pad_batch(two_rows(), 3, 4, true);
  EXPECT_EQ(padded.rows(), 3);
  EXPECT_EQ(padded.length(), 8);
  EXPECT_EQ(padded.labels.ne(kIgnoreLabel).sum().item<int64_t>(), 10);
  EXPECT_TRUE(padded.tokens.narrow(0, 0, 2).narrow(1, 0, 5).equal(two_rows().tokens));
  EXPECT_FALSE(padded.segments.defined()) << "causal models do not look ahead";
  EXPECT_EQ(padded.positions.sizes(), padded.tokens.sizes());
}

TEST(PadBatchTest, BidirectionalModelsSeePadding) {
  const Batch padded = pad_batch(two_rows(), 1, 4, false);
  ASSERT_TRUE(padded.segments.defined());
  EXPECT_EQ(padded.segments.eq(-2).sum().item<int64_t>(), 2 * 3) << "not the data's own (-1)";
}

TEST(PadBatchTest, NothingToAddChangesNothing) {
  const Batch same = pad_batch(two_rows(), 2, 5, false);
  EXPECT_TRUE(same.tokens.equal(two_rows().tokens));
  EXPECT_FALSE(same.segments.defined());
}

class ParityFolderTest : public testing::Test {
 protected:
  using Tensors = std::vector<std::pair<std::string, Tensor>>;
  void write(const Tensors& expected) {
    io::write_text_atomic(folder_ / "config.json",
                          "{\"model_type\": \"llama\", \"vocab_size\": 12, \"hidden_size\": 8, "
                          "\"intermediate_size\": 8, "
                          "\"num_hidden_layers\": 1, \"num_attention_heads\": 2}");
    io::write_safetensors((folder_ / "model.safetensors").string(),
                          {{"x", at::full({1}, 1.0, at::kFloat)}});
    io::write_safetensors((folder_ / "expected.safetensors").string(), expected);
  }
  std::string problem() {
    try {
      read_parity_case(folder_.path());
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }
  TempFolder folder_;
};

TEST_F(ParityFolderTest, ReadsBatchSegmentsAndGradients) {
  const Tensor ids = at::arange(6, at::kLong).reshape({1, 6});
  write({{"input_ids", ids},
         {"targets", ids},
         {"segments", at::tensor({0, 0, 1, 1, 1, -1}, at::kInt).reshape({1, 6})},
         {"loss", at::full({}, 1.25, at::kDouble)},
         {"grad.model.norm.weight", at::full({8}, 1.0, at::kDouble)},
         {"grad.mixer_in", at::full({8}, 1.0, at::kDouble)}});
  const ParityCase parity = read_parity_case(folder_.path());
  EXPECT_EQ(*parity.loss, 1.25);
  EXPECT_EQ(parity.gradients.size(), 1u);
  EXPECT_TRUE(
      parity.batch.positions.equal(at::tensor({0, 1, 0, 1, 2, 0}, at::kLong).reshape({1, 6})));
  EXPECT_FALSE(parity.trace.has_value());
}

TEST_F(ParityFolderTest, MaskBecomesPadding) {
  const Tensor ids = at::arange(6, at::kLong).reshape({2, 3});
  write({{"input_ids", ids},
         {"targets", ids},
         {"attention_mask", at::tensor({1, 1, 0, 1, 1, 1}, at::kLong).reshape({2, 3})}});
  const ParityCase parity = read_parity_case(folder_.path());
  EXPECT_TRUE(
      parity.batch.segments.equal(at::tensor({0, 0, -1, 0, 0, 0}, at::kInt).reshape({2, 3})));
  EXPECT_TRUE(parity.batch.positions.equal(default_positions(2, 3)));
}

TEST_F(ParityFolderTest, TraceLabelsAreTheTokensOnePlaceOn) {
  const Tensor ids = at::arange(6, at::kLong).reshape({2, 3});
  write({{"input_ids", ids},
         {"targets", ids},
         {"trace.tokens", ids.reshape({1, 2, 3})},
         {"trace.loss", at::full({1}, 1.0, at::kDouble)},
         {"trace.grad_norm", at::full({1}, 1.0, at::kDouble)}});
  const ParityCase parity = read_parity_case(folder_.path());
  ASSERT_TRUE(parity.trace.has_value());
  EXPECT_TRUE(parity.trace->labels[0].equal(
      at::tensor({1, 2, -100, 4, 5, -100}, at::kLong).reshape({2, 3})));
}

TEST_F(ParityFolderTest, WhatDoesNotFitIsNamed) {
  EXPECT_NE(problem().find("config.json is missing"), std::string::npos);
  const Tensor ids = at::arange(6, at::kLong).reshape({1, 6});
  write({{"input_ids", ids}});
  EXPECT_NE(problem().find("\"targets\" is missing"), std::string::npos);
  write({{"input_ids", ids + 10}, {"targets", ids}});
  EXPECT_NE(problem().find("holds id 15"), std::string::npos);
  write({{"input_ids", ids}, {"targets", ids.reshape({2, 3})}});
  EXPECT_NE(problem().find("[2, 3]"), std::string::npos);
}

}  // namespace
}  // namespace strata
