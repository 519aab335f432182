#include "core/tensor.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "core/batch.h"
#include "core/error.h"

namespace strata {
namespace tensor_test {

TEST(Tensor, DtypeNamesReadBack) {
  const std::vector<std::pair<at::ScalarType, const char*>> names = {
      {at::kFloat, "f32"}, {at::kDouble, "f64"}, {at::kHalf, "f16"},  {at::kBFloat16, "bf16"},
      {at::kLong, "i64"},  {at::kInt, "i32"},    {at::kShort, "i16"}, {at::kChar, "i8"},
      {at::kByte, "u8"},   {at::kBool, "bool"},
  };
  for (const auto& [dtype, name] : names) {
    EXPECT_EQ(dtype_name(dtype), name);
    EXPECT_EQ(parse_dtype(name), dtype);
  }
  EXPECT_EQ(parse_dtype(dtype_name(at::ScalarType::Float8_e4m3fn)), at::ScalarType::Float8_e4m3fn);
  EXPECT_EQ(parse_dtype(dtype_name(at::ScalarType::UInt16)), at::ScalarType::UInt16);
  EXPECT_FALSE(dtype_name(at::kComplexFloat).empty());
  EXPECT_THROW(parse_dtype("float"), ConfigError);
}

TEST(Tensor, TrainDtypes) {
  EXPECT_EQ(parse_train_dtype("fp32"), at::kFloat);
  EXPECT_EQ(parse_train_dtype("bf16"), at::kBFloat16);
  EXPECT_EQ(parse_train_dtype("fp64"), at::kDouble);
  try {
    parse_train_dtype("fp16");
    FAIL() << "fp16 training is not offered";
  } catch (const ConfigError& error) {
    EXPECT_EQ(
        std::string(error.what()).find("train.dtype: got \"fp16\", allowed: fp32, bf16, fp64"), 0u);
  }
}

TEST(Tensor, AccumulationType) {
  EXPECT_EQ(accumulate_dtype(at::kBFloat16), at::kFloat);
  EXPECT_EQ(accumulate_dtype(at::kHalf), at::kFloat);
  EXPECT_EQ(accumulate_dtype(at::kFloat), at::kFloat);
  EXPECT_EQ(accumulate_dtype(at::kDouble), at::kDouble);
}

TEST(Tensor, ShapesAndCounts) {
  EXPECT_EQ(shape_text({}), "[]");
  EXPECT_EQ(shape_text({2, 3, 4}), "[2, 3, 4]");
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({2, 0, 4}), 0);
  EXPECT_EQ(element_count({100000, 100000}), 10000000000);
}

TEST(Batch, SizesOfAnEmptyBatch) {
  const Batch batch;
  EXPECT_EQ(batch.rows(), 0);
  EXPECT_EQ(batch.length(), 0);
}

TEST(Batch, PositionsCountInEveryRow) {
  const Tensor positions = default_positions(3, 4);
  EXPECT_EQ(positions.scalar_type(), at::kLong);
  ASSERT_EQ(shape_text(positions.sizes()), "[3, 4]");
  EXPECT_TRUE(positions.is_contiguous());
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t t = 0; t < 4; ++t) EXPECT_EQ(positions[row][t].item<int64_t>(), t);
  }
}

TEST(Batch, SliceIsAViewAndMovesFirstRow) {
  Batch batch;
  batch.tokens = at::arange(12, at::kLong).view({4, 3});
  batch.labels = batch.tokens.add(100);
  batch.positions = default_positions(4, 3);
  batch.step = 7;
  batch.first_row = 16;
  batch.training = true;
  const Batch part = batch.slice(1, 3);
  EXPECT_EQ(part.rows(), 2);
  EXPECT_EQ(part.length(), 3);
  EXPECT_EQ(part.first_row, 17);
  EXPECT_EQ(part.step, 7);
  EXPECT_TRUE(part.training);
  EXPECT_FALSE(part.segments.defined());
  EXPECT_TRUE(part.tokens.equal(batch.tokens.narrow(0, 1, 2)));
  EXPECT_TRUE(part.labels.equal(batch.labels.narrow(0, 1, 2)));
  EXPECT_EQ(part.tokens.data_ptr<int64_t>(), batch.tokens.data_ptr<int64_t>() + 3);
  EXPECT_EQ(part.slice(1, 2).first_row, 18);
  EXPECT_EQ(batch.slice(4, 4).rows(), 0);
  EXPECT_EQ(batch.first_row, 16);
}

TEST(Batch, SliceOutsideIsABug) {
  Batch batch;
  batch.tokens = at::empty({4, 3}, at::kLong);
  EXPECT_THROW(batch.slice(0, 5), InternalError);
  EXPECT_THROW(batch.slice(-1, 2), InternalError);
  EXPECT_THROW(batch.slice(3, 2), InternalError);
}

}  // namespace tensor_test
}  // namespace strata
