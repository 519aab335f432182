#include <map>
#include <set>

#include "tests/data/rows.h"

namespace strata {
namespace {

using namespace data_test;

DataConfig task(const std::string& source, int64_t length, int64_t vocab = 0) {
  DataConfig config;
  config.source = source;
  config.sequence_length = length;
  config.vocab_size = vocab;
  return config;
}

TEST(Synthetic, EveryTaskIsPureAndNeverRepeats) {
  for (const char* name : {"recall", "copy", "parity", "s3", "a5", "s5"}) {
    SCOPED_TRACE(name);
    const DataConfig config = task(name, 48);
    expect_pure(config, Split::Train, 2, 0, 20);
    expect_pure(config, Split::Train, 2, 200000, 200010);  // beyond the first epoch
    expect_pure(config, Split::Valid, 2, 0, 10);
    const auto source = make_data_source(config, Split::Train, 2);
    const auto valid = make_data_source(config, Split::Valid, 2),
               other = make_data_source(config, Split::Train, 3);
    std::set<std::vector<int64_t>> seen;
    const auto add = [&](const DataSource& from, int64_t begin) {
      const Batch batch = from.rows(begin, begin + 50);
      for (int64_t i = 0; i < 50; ++i) EXPECT_TRUE(seen.insert(ids(batch.tokens[i])).second);
    };
    add(*source, 0);
    add(*source, source->rows_per_epoch());
    add(*valid, 0);
    add(*other, 0);
    EXPECT_NE(source->fingerprint(), other->fingerprint());
    EXPECT_NE(source->fingerprint(), valid->fingerprint());
    // Validation is one set that comes again.
    const int64_t n = valid->rows_per_epoch();
    EXPECT_EQ(n, static_cast<int64_t>(65536 * 0.02));
    expect_equal(valid->rows(3, 5), valid->rows(n + 3, n + 5));
    const Batch batch = source->rows(0, 64);
    for (int64_t id : ids(batch.tokens)) ASSERT_TRUE(id >= 0 && id < source->vocab_size());
    for (int64_t id : ids(batch.labels))
      ASSERT_TRUE(id == kIgnoreLabel || (id >= 0 && id < source->vocab_size()));
  }
}

TEST(Synthetic, RecallAsksForEveryPairOnce) {
  DataConfig config = task("recall", 40, 30);
  config.pairs = 7;
  const auto source = make_data_source(config, Split::Train, 1);
  const Batch batch = source->rows(0, 200);
  std::set<int64_t> places;
  for (int64_t i = 0; i < 200; ++i) {
    const auto tokens = ids(batch.tokens[i]), labels = ids(batch.labels[i]);
    std::map<int64_t, int64_t> facts;
    for (size_t p = 0; p < 14; p += 2) {
      ASSERT_TRUE(tokens[p] >= 1 && tokens[p] < 15);
      ASSERT_TRUE(tokens[p + 1] >= 15 && tokens[p + 1] < 30);
      ASSERT_TRUE(facts.emplace(tokens[p], tokens[p + 1]).second) << "a key twice";
      ASSERT_EQ(labels[p], kIgnoreLabel);
      ASSERT_EQ(labels[p + 1], kIgnoreLabel);
    }
    for (size_t t = 14; t < 40; ++t) {
      if (tokens[t] == 0) {
        ASSERT_EQ(labels[t], kIgnoreLabel);
        continue;
      }
      ASSERT_EQ(facts.count(tokens[t]), 1u);
      ASSERT_EQ(labels[t], facts[tokens[t]]);
      facts.erase(tokens[t]);
      places.insert(static_cast<int64_t>(t));
    }
    ASSERT_TRUE(facts.empty());
  }
  EXPECT_EQ(places.size(), 26u);  // questions come everywhere
  config.pairs = 14;
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 1); }),
                  "data.pairs: got 14, allowed: 1..13");
  expect_contains(
      message_of<ConfigError>([&] { make_data_source(task("recall", 2), Split::Train, 1); }),
      "data.sequence_length");
  expect_contains(
      message_of<ConfigError>([&] { make_data_source(task("recall", 9, 3), Split::Train, 1); }),
      "model.vocab_size");
}

TEST(Synthetic, CopyRepeatsWhatCameBefore) {
  for (int64_t length : {2, 3, 4, 17, 32}) {
    const Batch batch = make_data_source(task("copy", length, 12), Split::Train, 1)->rows(0, 30);
    const int64_t half = length / 2;
    for (int64_t i = 0; i < 30; ++i) {
      const auto tokens = ids(batch.tokens[i]), labels = ids(batch.labels[i]);
      for (int64_t t = 0; t < length; ++t) {
        const auto at = static_cast<size_t>(t);
        ASSERT_EQ(tokens[at] == 0, t == half);
        if (t > half) {
          ASSERT_EQ(tokens[at], tokens[at - static_cast<size_t>(half) - 1]);
        }
        const bool asked = t >= half && t - half < half;
        ASSERT_EQ(labels[at], asked ? tokens[at - static_cast<size_t>(half)] : kIgnoreLabel);
        if (asked && t + 1 < length) {
          ASSERT_EQ(labels[at], tokens[at + 1]);  // the next token
        }
      }
    }
  }
}

// Permutations of n things in lexicographic order, the even ones only when `even`.
std::vector<std::vector<int>> permutations(int n, bool even) {
  std::vector<int> p;
  for (int i = 0; i < n; ++i) p.push_back(i);
  std::vector<std::vector<int>> out;
  do {
    std::vector<bool> done(p.size());
    int swaps = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      for (size_t j = i; !done[j]; j = static_cast<size_t>(p[j]))
        done[j] = true, swaps += static_cast<size_t>(p[j]) != i;
    }
    if (!even || swaps % 2 == 0) out.push_back(p);
  } while (std::next_permutation(p.begin(), p.end()));
  return out;
}

TEST(Synthetic, GroupWordsFollowTheGroup) {
  struct Case {
    const char* name;
    int n;
    bool even;
    size_t size;
  };
  for (const Case& c : {Case{"parity", 2, false, 2}, Case{"s3", 3, false, 6},
                        Case{"a5", 5, true, 60}, Case{"s5", 5, false, 120}}) {
    SCOPED_TRACE(c.name);
    const auto elements = permutations(c.n, c.even);
    ASSERT_EQ(elements.size(), c.size);
    const auto source = make_data_source(task(c.name, 64), Split::Train, 1);
    EXPECT_EQ(source->vocab_size(), static_cast<int64_t>(c.size));
    const Batch batch = source->rows(0, 100);
    std::vector<int> count(c.size);
    for (int64_t i = 0; i < 100; ++i) {
      const auto tokens = ids(batch.tokens[i]), labels = ids(batch.labels[i]);
      std::vector<int> things(elements[0]);  // where each thing is
      for (size_t t = 0; t < 64; ++t) {
        ++count[static_cast<size_t>(tokens[t])];
        for (int& place : things)
          place = elements[static_cast<size_t>(tokens[t])][static_cast<size_t>(place)];
        ASSERT_EQ(elements[static_cast<size_t>(labels[t])], things);
      }
    }
    for (int k : count)
      EXPECT_NEAR(k, 6400.0 / static_cast<double>(c.size),
                  6 * std::sqrt(6400.0 / static_cast<double>(c.size)));
    if (c.size > 2) {
      expect_contains(
          message_of<ConfigError>([&] { make_data_source(task(c.name, 8, 5), Split::Train, 1); }),
          "model.vocab_size: got 5, allowed: at least " + std::to_string(c.size));
    }
  }
}

TEST(Synthetic, GeneratorsReachTheWholeGroup) {
  struct Case {
    const char* name;
    int n;
    bool even;
    size_t count;
    std::set<int64_t> letters;
  };
  // S3: 012, 021 is not a swap of the first two; 102 is number 2, the turns 120 and 201 are 3
  // and 4.
  for (const Case& c : {Case{"parity", 2, false, 2, {0, 1}}, Case{"s3", 3, false, 4, {0, 2, 3, 4}},
                        Case{"a5", 5, true, 5, {}}, Case{"s5", 5, false, 4, {}}}) {
    SCOPED_TRACE(c.name);
    const auto elements = permutations(c.n, c.even);
    DataConfig config = task(c.name, 64);
    config.letters = "generators";
    const auto source = make_data_source(config, Split::Train, 1);
    EXPECT_EQ(source->vocab_size(), std::ssize(elements));
    const Batch batch = source->rows(0, 200);
    const auto tokens = ids(batch.tokens.flatten()), labels = ids(batch.labels.flatten());
    const std::set<int64_t> letters(tokens.begin(), tokens.end());
    EXPECT_EQ(letters.size(), c.count);
    if (!c.letters.empty()) {
      EXPECT_EQ(letters, c.letters);
    }
    EXPECT_EQ(std::set<int64_t>(labels.begin(), labels.end()).size(), elements.size());
    EXPECT_EQ(
        source->fingerprint() == make_data_source(task(c.name, 64), Split::Train, 1)->fingerprint(),
        c.n == 2);
  }
}

TEST(Masked, HidesTheWantedPartAndAsksForIt) {
  Folder folder;
  write_bytes(folder / "train.bin", numbers<uint16_t>(some_ids(50001, 90)));
  DataConfig config = task("tokens", 100, 100);
  config.path = folder / "train.bin";
  config.valid_fraction = 0.1;
  const Batch plain = make_data_source(config, Split::Train, 1)->rows(0, 400);
  config.mask_fraction = 0.15;
  expect_pure(config, Split::Train, 1, 0, 20);
  expect_pure(config, Split::Valid, 1, 0, 9);
  const auto source = make_data_source(config, Split::Train, 1);
  const Batch batch = source->rows(0, 400);
  const auto before = ids(plain.tokens), tokens = ids(batch.tokens), labels = ids(batch.labels);
  int asked = 0, hidden = 0, kept = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (labels[i] == kIgnoreLabel) {
      ASSERT_EQ(tokens[i], before[i]);
      continue;
    }
    ASSERT_EQ(labels[i], before[i]);
    ++asked;
    hidden += tokens[i] == 99;  // the last id, which the data does not have
    kept += tokens[i] == before[i];
  }
  EXPECT_NEAR(asked, 6000, 5 * 72);
  EXPECT_NEAR(hidden, 0.8 * asked + 0.001 * asked, 5 * 31);
  EXPECT_NEAR(kept, 0.1 * asked + 0.001 * asked, 5 * 24);
  const int64_t n = source->rows_per_epoch();
  EXPECT_NE(ids(source->rows(0, n).labels), ids(source->rows(n, 2 * n).labels));
  const auto valid = make_data_source(config, Split::Valid, 1);
  expect_equal(valid->rows(0, 5),
               valid->rows(valid->rows_per_epoch(), valid->rows_per_epoch() + 5));
  config.mask_token = 100;
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 1); }),
                  "data.mask_token: got 100");
  DataConfig copy = task("copy", 10);
  copy.mask_fraction = 0.5;
  expect_contains(message_of<ConfigError>([&] { make_data_source(copy, Split::Train, 1); }),
                  "data.mask_fraction");
}

}  // namespace
}  // namespace strata
