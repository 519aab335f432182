#include "parallel/nn/shard.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "core/tensor.h"
#include "core/text.h"
#include "parallel/nn/parameter.h"

namespace strata {
namespace {

std::vector<std::pair<ShardSpec, Shape>> cases() {
  return {
      {replicated(), {5, 3}},
      {split_out(2), {8, 3}},
      {split_out(4), {16}},
      {split_in(2), {3, 8}},
      {split(1), {2, 4, 3}},
      {split_out(2, {8, 4, 4}), {16, 3}},
      {{.dim = 1, .unit = 2, .segments = {4, 8, 4}}, {3, 16, 2}},
      {split_vocabulary(1), {7, 2}},
      {split_vocabulary(3), {7, 2}},
      {split_vocabulary(128), {61, 4}},
  };
}

// Parts of all ranks are disjoint and cover the dimension.
TEST(OwnedRanges, TileTheDimension) {
  for (const auto& [spec, logical] : cases()) {
    for (int count : {1, 2, 4}) {
      if (!spec.cut() || !why_not_divisible(spec, logical, count).empty()) continue;
      std::vector<int> owners(logical[spec.dim], 0);
      for (int index = 0; index < count; ++index) {
        for (const Range& r : owned_ranges(spec, logical, index, count)) {
          for (int64_t i = r.begin; i < r.end; ++i) ++owners[i];
        }
      }
      for (int n : owners) EXPECT_EQ(n, 1);
    }
  }
}

TEST(OwnedRanges, CutsSegmentsOneByOne) {
  const auto ranges = owned_ranges(split_out(2, {8, 4, 4}), {16, 3}, 1, 2);
  EXPECT_EQ(ranges, (std::vector<Range>{{4, 8}, {10, 12}, {14, 16}}));
}

TEST(OwnedRanges, VocabularyRuleLeavesLastRanksWithLess) {
  const ShardSpec spec = split_vocabulary(3);
  EXPECT_EQ(owned_ranges(spec, {7, 2}, 0, 4)[0], (Range{0, 3}));
  EXPECT_EQ(owned_ranges(spec, {7, 2}, 2, 4)[0], (Range{6, 7}));
  EXPECT_EQ(owned_ranges(spec, {7, 2}, 3, 4)[0].size(), 0);
  EXPECT_EQ(owned_ranges(split_vocabulary(128), {61, 4}, 0, 2)[0], (Range{0, 61}));
}

TEST(OwnedRanges, FewerUnitsThanPartsAreReplicated) {
  const ShardSpec spec = split_or_replicate(3);
  EXPECT_EQ(replicas(spec, {6, 5}, 4), 2);
  EXPECT_EQ(owned_ranges(spec, {6, 5}, 1, 4)[0], (Range{0, 3}));
  EXPECT_EQ(owned_ranges(spec, {6, 5}, 2, 4)[0], (Range{3, 6}));
  EXPECT_EQ(replicas(spec, {6, 5}, 2), 1);
  EXPECT_EQ(replicas(spec, {12, 5}, 2), 1);
  EXPECT_EQ(replicas(replicated(), {6, 5}, 4), 4);
  EXPECT_EQ(why_not_divisible(spec, {6, 5}, 3), "has 2 units of 3");
}

TEST(OwnedRanges, RefuseWhatDoesNotDivide) {
  EXPECT_EQ(why_not_divisible(split_out(128), {512, 3}, 8), "has 4 units of 128");
  EXPECT_EQ(why_not_divisible(split_out(3), {8, 3}, 2),
            "has extent 8, not a whole number of units of 3");
  EXPECT_THROW(owned_ranges(split_out(128), {512, 3}, 0, 8), InternalError);
}

TEST(LocalBoxes, FlatSlicesAreFewAndExact) {
  std::mt19937 random(5);
  for (const auto& [spec, logical] : cases()) {
    const int count = spec.cut() && why_not_divisible(spec, logical, 2).empty() ? 2 : 1;
    const Tensor whole =
        at::arange(element_count(logical), at::TensorOptions().dtype(at::kLong)).view(logical);
    for (int index = 0; index < count; ++index) {
      const Tensor local = take_part(whole, spec, index, count).contiguous();
      EXPECT_EQ(local.sizes().vec(), local_shape(spec, logical, index, count));
      for (int trial = 0; trial < 20; ++trial) {
        const int64_t n = local.numel();
        int64_t begin = n == 0 ? 0 : random() % (n + 1), end = n == 0 ? 0 : random() % (n + 1);
        if (begin > end) std::swap(begin, end);
        const auto boxes = local_boxes(spec, logical, index, count, begin, end);
        const size_t ranges = owned_ranges(spec, logical, index, count).size();
        EXPECT_LE(boxes.size(), (2 * (logical.size() - 1) + 1) * ranges);
        // Every element of the slice is named once, with its own logical place.
        Tensor seen = at::zeros({n}, at::TensorOptions().dtype(at::kLong));
        for (const LocalBox& box : boxes) {
          Tensor from = whole, at_local = local, mark = seen.view(local.sizes());
          for (size_t d = 0; d < logical.size(); ++d) {
            from = from.narrow(d, box.logical.offset[d], box.logical.extent[d]);
            at_local = at_local.narrow(d, box.local_offset[d], box.logical.extent[d]);
            mark = mark.narrow(d, box.local_offset[d], box.logical.extent[d]);
          }
          EXPECT_TRUE(from.equal(at_local));
          mark.add_(1);
        }
        for (int64_t i = 0; i < n; ++i)
          EXPECT_EQ(seen.data_ptr<int64_t>()[i], i >= begin && i < end ? 1 : 0);
      }
    }
  }
}

// What a flat range of the local part holds, box after box.
TEST(LocalBoxes, OfAFlatRangeLieOneAfterTheOther) {
  for (const auto& [spec, logical] : cases()) {
    for (const int count : {1, 2, 4}) {
      if (spec.cut() && !why_not_divisible(spec, logical, count).empty()) continue;
      const Tensor whole = at::arange(c10::multiply_integers(logical), at::kLong).view(logical);
      for (int index = 0; index < count; ++index) {
        const Tensor local = take_part(whole, spec, index, count).contiguous().view(-1);
        const int64_t n = local.numel(), step = std::max<int64_t>(1, n / 7);
        for (int64_t begin = 0; begin < n; begin += step) {
          for (int64_t end = begin + 1; end <= n; end += step) {
            int64_t at = begin;
            for (const LocalBox& box : local_boxes(spec, logical, index, count, begin, end)) {
              Tensor part = whole;
              for (size_t d = 0; d < logical.size(); ++d)
                part = part.narrow(static_cast<int64_t>(d), box.logical.offset[d],
                                   box.logical.extent[d]);
              const int64_t size = part.numel();
              ASSERT_LE(at + size, end);
              EXPECT_TRUE(part.reshape(-1).equal(local.narrow(0, at, size)));
              at += size;
            }
            EXPECT_EQ(at, end);
          }
        }
      }
    }
  }
}

// Whatever the box, an element's initial value is the same.
TEST(InitialValues, AreAFunctionOfTheLogicalElement) {
  for (const Init& init :
       {Init::normal(0.5, 1.0), Init::truncated_normal(0.3), Init::uniform(-2, 3),
        Init::constant(4), Init::of([](int64_t e) { return 0.25 * static_cast<double>(e); })}) {
    ParamMeta meta;
    meta.name = "w";
    meta.logical = {6, 5, 4};
    const Tensor whole = initial_values(meta, init, 3, {{0, 0, 0}, {6, 5, 4}}, at::kDouble);
    const Box box{{1, 2, 1}, {3, 2, 3}};
    const Tensor part = initial_values(meta, init, 3, box, at::kDouble);
    EXPECT_TRUE(part.equal(whole.narrow(0, 1, 3).narrow(1, 2, 2).narrow(2, 1, 3)));
    const Tensor rounded = initial_values(meta, init, 3, box, at::kFloat);
    EXPECT_TRUE(rounded.to(at::kDouble).equal(part));  // fp64 runs start from the fp32 values
  }
}

TEST(InitialValues, DependOnNameAndSeed) {
  ParamMeta a, b;
  a.name = "a";
  b.name = "b";
  a.logical = b.logical = {8};
  const Box box{{0}, {8}};
  const Tensor one = initial_values(a, Init::normal(1), 1, box, at::kFloat);
  EXPECT_FALSE(one.equal(initial_values(b, Init::normal(1), 1, box, at::kFloat)));
  EXPECT_FALSE(one.equal(initial_values(a, Init::normal(1), 2, box, at::kFloat)));
}

}  // namespace
}  // namespace strata
