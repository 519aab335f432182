// data.pack_documents: rows hold the same tokens, but documents are segments of their own.
#include "tests/data/rows.h"

namespace strata {
namespace {

using namespace data_test;

DataConfig packed(const std::string& path, int64_t length) {
  DataConfig config;
  config.source = "tokens";
  config.path = path;
  config.sequence_length = length;
  config.valid_fraction = 0;
  config.vocab_size = 100;
  config.shuffle = false;
  config.pack_documents = true;
  return config;
}

constexpr int64_t kNone = kIgnoreLabel;

TEST(Packing, SegmentsPositionsAndLabelsOfASmallCase) {
  Folder folder;
  // Documents: 10 11 12 | 20 | 30 31 32 33 34 | 40, rows of 4 (the last row would lack a label).
  write_bytes(folder / "t",
              StrataFile::of({10, 11, 12, 20, 30, 31, 32, 33, 34, 40}, {3, 4, 9, 10}).bytes());
  const auto source = make_data_source(packed(folder / "t", 4), Split::Train, 0);
  ASSERT_EQ(source->rows_per_epoch(), 2);
  const Batch batch = source->rows(0, 2);
  EXPECT_EQ(ids(batch.tokens), (std::vector<int64_t>{10, 11, 12, 20, 30, 31, 32, 33}));
  EXPECT_EQ(ids(batch.labels), (std::vector<int64_t>{11, 12, kNone, kNone, 31, 32, 33, 34}));
  EXPECT_EQ(ids(batch.positions), (std::vector<int64_t>{0, 1, 2, 0, 0, 1, 2, 3}));
  EXPECT_EQ(values<int32_t>(batch.segments), (std::vector<int32_t>{0, 0, 0, 1, 0, 0, 0, 0}));
}

TEST(Packing, ADocumentGoesOnInTheNextRowFromPositionZero) {
  Folder folder;
  write_bytes(folder / "t", StrataFile::of(some_ids(9, 50), {6, 9}).bytes());
  const Batch batch = make_data_source(packed(folder / "t", 4), Split::Train, 0)->rows(0, 2);
  EXPECT_EQ(ids(batch.positions), (std::vector<int64_t>{0, 1, 2, 3, 0, 1, 0, 1}));
  EXPECT_EQ(values<int32_t>(batch.segments), (std::vector<int32_t>{0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(ids(batch.labels)[3],
            some_ids(9, 50)[4]);  // the same document: the label crosses the row
  EXPECT_EQ(ids(batch.labels)[5], kNone);
}

// Against a direct computation from the definition, for random documents.
TEST(Packing, AgreesWithTheDefinition) {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    Folder folder;
    const int64_t tokens = 60 + random() % 200, length = 1 + random() % 40;
    const auto stored = some_ids(tokens, 90);
    std::vector<int64_t> ends, document(static_cast<size_t>(tokens));
    for (int64_t i = 0, d = 0; i < tokens; ++i) {
      document[static_cast<size_t>(i)] = d;
      if (random() % 5 == 0 || i + 1 == tokens) {
        ends.push_back(i + 1);
        ++d;
      }
    }
    write_bytes(folder / "t", StrataFile::of(stored, ends).bytes());
    const auto source = make_data_source(packed(folder / "t", length), Split::Train, 0);
    const Batch batch = source->rows(0, source->rows_per_epoch());
    const auto labels = ids(batch.labels), positions = ids(batch.positions);
    const auto segments = values<int32_t>(batch.segments);
    for (int64_t p = 0; p < source->rows_per_epoch() * length; ++p) {
      const auto at = static_cast<size_t>(p);
      const bool same = document[at] == document[at + 1];
      ASSERT_EQ(labels[at], same ? stored[at + 1] : kNone);
      const int64_t row_start = p / length * length;
      int64_t start = p;
      while (start > row_start && document[static_cast<size_t>(start - 1)] == document[at]) --start;
      ASSERT_EQ(positions[at], p - start);
      if (p > row_start) {
        ASSERT_EQ(segments[at] == segments[at - 1], document[at] == document[at - 1]);
      }
    }
    DataConfig config = packed(folder / "t", length);
    config.shuffle = true;
    expect_pure(config, Split::Train, 5, 0, std::min<int64_t>(source->rows_per_epoch() * 2, 12));
  }
}

TEST(Packing, BordersFromAnEndIdAreTheSameAsRecordedOnes) {
  Folder folder;
  std::vector<int64_t> stored, ends;
  std::mt19937 random(5);
  while (stored.size() < 500) {
    for (uint32_t k = random() % 20; k > 0; --k) stored.push_back(1 + random() % 98);
    stored.push_back(0);
    ends.push_back(static_cast<int64_t>(stored.size()));
  }
  write_bytes(folder / "recorded", StrataFile::of(stored, ends).bytes());
  write_bytes(folder / "plain.bin", numbers<uint16_t>(stored));
  DataConfig by_id = packed(folder / "plain.bin", 32);
  by_id.document_end = 0;
  const auto a = make_data_source(packed(folder / "recorded", 32), Split::Train, 0);
  const auto b = make_data_source(by_id, Split::Train, 0);
  expect_equal(a->rows(0, 15), b->rows(0, 15));
}

TEST(Packing, WithoutBordersItIsRefused) {
  Folder folder;
  write_bytes(folder / "plain.bin", numbers<uint16_t>(some_ids(100, 50)));
  DataConfig config = packed(folder / "plain.bin", 10);
  std::string message = message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); });
  expect_contains(message, "data.pack_documents");
  expect_contains(message, "set data.document_end");
  config.document_end = 99;
  message = message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); });
  expect_contains(message, "id 99, which ends documents, occurs nowhere");
}

TEST(Packing, TextLinesAsDocuments) {
  Folder folder;
  write_bytes(folder / "t.txt", "ab\ncde\nf\n");
  DataConfig config = packed(folder / "t.txt", 8);
  config.source = "text";
  config.vocab_size = 256;
  config.document_end = '\n';
  const Batch batch = make_data_source(config, Split::Train, 0)->rows(0, 1);
  EXPECT_EQ(values<int32_t>(batch.segments), (std::vector<int32_t>{0, 0, 0, 1, 1, 1, 1, 2}));
  EXPECT_EQ(ids(batch.labels),
            (std::vector<int64_t>{'b', '\n', kNone, 'd', 'e', '\n', kNone, '\n'}));
}

}  // namespace
}  // namespace strata
