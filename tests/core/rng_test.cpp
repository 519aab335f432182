#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace strata {
namespace rng_test {

// Values that every implementation of the definitions in core/rng.h must give.
TEST(Rng, PublishedVectorsOfPhilox) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, PublishedVectorsOfTheHashes) {
  EXPECT_EQ(fnv1a64(""), 0xcbf29ce484222325u);
  EXPECT_EQ(fnv1a64("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(fnv1a64("embed.weight"), 0x9ac37bcac2dc8a00u);
  EXPECT_EQ(splitmix64(0), 0xe220a8397b1dcdafu);
}

TEST(Rng, PublishedVectorsOfAStream) {
  const Rng rng(1234, "init", "embed.weight");
  EXPECT_EQ(rng.key(), (PhiloxKey{0xcee639e7, 0x89eb8d62}));
  const uint32_t words[8] = {0x4a2ac741, 0x306732c6, 0x5efdccfe, 0x12b09b4c,
                             0xaaa5410c, 0x80f26f6d, 0xd45bf57e, 0xa745103a};
  for (uint64_t e = 0; e < 8; ++e) EXPECT_EQ(rng.word(e), words[e]) << e;
  const float normals[4] = {-1.17021345f, -0.675699114f, -0.32593792f, -0.265511563f};
  for (uint64_t e = 0; e < 4; ++e) EXPECT_EQ(rng.normal(e), normals[e]) << e;
}

TEST(Rng, SeedDomainAndNameMakeDifferentStreams) {
  std::set<PhiloxKey> keys;
  for (const uint64_t seed : {1, 2}) {
    for (const char* domain : {"init", "dropout", "data", "sample"}) {
      for (const char* name : {"a", "b", ""}) keys.insert(Rng(seed, domain, name).key());
    }
  }
  EXPECT_EQ(keys.size(), 24u);
}

TEST(Rng, WordsNormalsAndDropoutUseDifferentCounters) {
  const Rng rng(1, "init", "w");
  std::set<uint32_t> words;
  for (uint64_t e = 0; e < 100; ++e) {
    words.insert(rng.word(e));
    words.insert(rng.dropout_word(e, 0));
    words.insert(rng.dropout_word(e, 1));
  }
  EXPECT_EQ(words.size(), 300u);
  EXPECT_EQ(rng.dropout_word(6, 9), philox4x32({1, 0, 9, 2}, rng.key())[2]);
  const uint64_t far = (uint64_t{3} << 34) + 5;
  EXPECT_EQ(rng.word(far), philox4x32({1, 3, 0, 0}, rng.key())[1]);
}

TEST(Rng, UniformIsStrictlyInside) {
  const Rng rng(1, "init", "w");
  double sum = 0;
  for (uint64_t e = 0; e < 100000; ++e) {
    const double u = rng.uniform(e);
    ASSERT_EQ(u, ((rng.word(e) >> 8) + 0.5) / 16777216.0);
    ASSERT_GT(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.004);
}

// Box-Muller with the C library's functions; ours may differ from it in the last place.
TEST(Rng, NormalsFollowTheDefinition) {
  const Rng rng(99, "init", "w");
  const double two_pi = 2 * std::acos(-1.0);
  int different = 0;
  for (uint64_t e = 0; e < 50000; ++e) {
    const uint64_t block = e / 2;
    const PhiloxCounter w = philox4x32({static_cast<uint32_t>(block), 0, 1, 0}, rng.key());
    const double u0 = ((w[0] >> 8) + 0.5) / 16777216.0, u1 = ((w[1] >> 8) + 0.5) / 16777216.0;
    const double radius = std::sqrt(-2 * std::log(u0));
    const double z = radius * (e % 2 == 0 ? std::cos(two_pi * u1) : std::sin(two_pi * u1));
    ASSERT_NEAR(rng.normal(e), z, 6e-8 * std::abs(z) + 1e-15) << e;
    different += rng.normal(e) != static_cast<float>(z);
  }
  EXPECT_LE(different, 2);
}

TEST(Rng, NormalMoments) {
  const Rng rng(5, "init", "w");
  const int64_t n = 400000;
  std::vector<float> z(n);
  rng.fill_normal(0, n, z.data());
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = z[i];
    m1 += x;
    m2 += x * x;
    m3 += x * x * x;
    m4 += x * x * x * x;
    if (i > 0) lag += x * z[i - 1];
  }
  // Five standard deviations of each estimate.
  EXPECT_NEAR(m1 / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(m2 / n, 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(m3 / n, 0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(m4 / n, 3, 5 * std::sqrt(96.0 / n));
  EXPECT_NEAR(lag / n, 0, 5 / std::sqrt(n));
}

TEST(Rng, TruncatedNormalInvertsTheDistribution) {
  const Rng rng(5, "init", "w");
  const auto cdf = [](double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); };
  double squares = 0;
  const int n = 20000;
  for (uint64_t e = 0; e < n; ++e) {
    const double z = rng.truncated_normal(e);
    ASSERT_LE(std::abs(z), 2.0);
    const double u = (cdf(z) - cdf(-2.0)) / (cdf(2.0) - cdf(-2.0));
    ASSERT_NEAR(u, rng.uniform(e), 1e-7) << e;
    squares += z * z;
  }
  EXPECT_NEAR(std::sqrt(squares / n), 0.8796, 0.015);  // deviation of a normal cut at 2
}

TEST(Rng, TruncatedNormalIsMonotone) {
  const Rng rng(6, "init", "w");
  std::vector<std::pair<double, float>> pairs;
  for (uint64_t e = 0; e < 5000; ++e) pairs.emplace_back(rng.uniform(e), rng.truncated_normal(e));
  std::sort(pairs.begin(), pairs.end());
  for (size_t i = 1; i < pairs.size(); ++i) ASSERT_LE(pairs[i - 1].second, pairs[i].second);
  EXPECT_LT(pairs.front().second, -1.8f);
  EXPECT_GT(pairs.back().second, 1.8f);
}

TEST(Rng, FillsEqualSingleCalls) {
  const Rng rng(8, "dropout", "model.layers.0.mlp");
  for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{31}, uint64_t{33},
                               uint64_t{1} << 33, (uint64_t{1} << 34) - 5}) {
    for (const int64_t count : {0, 1, 2, 5, 31, 32, 64, 67, 200}) {
      std::vector<float> normals(count + 1, -77.0f);
      std::vector<double> uniforms(count + 1, -77.0);
      std::vector<uint32_t> words(count + 1, 77);
      rng.fill_normal(first, count, normals.data());
      rng.fill_uniform(first, count, uniforms.data());
      rng.fill_dropout_words(first, count, 12, words.data());
      for (int64_t i = 0; i < count; ++i) {
        const uint64_t e = first + static_cast<uint64_t>(i);
        ASSERT_EQ(normals[i], rng.normal(e)) << e;
        ASSERT_EQ(uniforms[i], rng.uniform(e)) << e;
        ASSERT_EQ(words[i], rng.dropout_word(e, 12)) << e;
      }
      // Nothing behind the end is written.
      EXPECT_EQ(normals[count], -77.0f);
      EXPECT_EQ(uniforms[count], -77.0);
      EXPECT_EQ(words[count], 77u);
    }
  }
}

TEST(Rng, KeepRateOfDropout) {
  const Rng rng(8, "dropout", "model.layers.0.mlp");
  const int64_t n = 200000;
  std::vector<uint32_t> words(n);
  rng.fill_dropout_words(0, n, 3, words.data());
  const auto threshold = static_cast<uint32_t>(std::floor(0.1 * 4294967296.0));
  const auto kept =
      std::count_if(words.begin(), words.end(), [&](uint32_t w) { return w >= threshold; });
  EXPECT_NEAR(static_cast<double>(kept) / n, 0.9, 5 * std::sqrt(0.09 / n));
}

}  // namespace rng_test
}  // namespace strata
