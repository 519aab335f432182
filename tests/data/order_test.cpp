#include <set>

#include "data/source.h"
#include "tests/data/files.h"

namespace strata {
namespace {

std::vector<int64_t> order(int64_t n, uint64_t seed, int64_t epoch) {
  const KeyedPermutation permutation(n, seed, epoch);
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(permutation(i));
  return out;
}

TEST(KeyedPermutation, IsABijectionForEverySmallSize) {
  for (int64_t n = 1; n <= 300; ++n) {
    std::vector<int64_t> values = order(n, 17 + static_cast<uint64_t>(n), n % 5);
    std::sort(values.begin(), values.end());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], i) << "n = " << n;
  }
}

TEST(KeyedPermutation, StaysInRangeAndHitsNothingTwiceForLargeSizes) {
  for (int64_t n : {(int64_t{1} << 20) - 1, (int64_t{1} << 20) + 1, int64_t{3'000'000'019},
                    (int64_t{1} << 40) + 7, (int64_t{1} << 62) + 3}) {
    const KeyedPermutation permutation(n, 5, 2);
    std::set<int64_t> seen;
    for (int64_t k = 0; k < 20000; ++k) {
      const int64_t index = k < 10000 ? k : n - 1 - (k - 10000);
      const int64_t value = permutation(index);
      ASSERT_GE(value, 0);
      ASSERT_LT(value, n);
      ASSERT_TRUE(seen.insert(value).second) << "n = " << n << ", index " << index;
    }
  }
}

TEST(KeyedPermutation, DependsOnSeedAndEpochAlone) {
  EXPECT_EQ(order(1000, 1, 0), order(1000, 1, 0));
  EXPECT_NE(order(1000, 1, 0), order(1000, 1, 1));
  EXPECT_NE(order(1000, 1, 0), order(1000, 2, 0));
  EXPECT_NE(order(1000, 1, 1), order(1000, 2, 0));
}

TEST(KeyedPermutation, LooksRandom) {
  // Over many keys each of 8 places gets each of 8 values about equally often (5 sigma), and
  // neighbours do not stay neighbours.
  constexpr int kKeys = 8000;
  std::vector<int> count(64);
  for (int key = 0; key < kKeys; ++key) {
    const std::vector<int64_t> values = order(8, static_cast<uint64_t>(key), 0);
    for (size_t i = 0; i < 8; ++i) ++count[i * 8 + static_cast<size_t>(values[i])];
  }
  for (int c : count) EXPECT_NEAR(c, kKeys / 8, 5 * 30);
  const std::vector<int64_t> values = order(10000, 3, 0);
  int neighbours = 0;
  for (size_t i = 1; i < values.size(); ++i) neighbours += std::abs(values[i] - values[i - 1]) == 1;
  EXPECT_LT(neighbours, 15);  // 2 expected
}

}  // namespace
}  // namespace strata
