#include "data/source.h"

#include <map>
#include <set>

#include "core/config/reader.h"
#include "core/io/hdf5.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "tests/data/rows.h"

namespace strata {
namespace {

using namespace data_test;

DataConfig text_config(const std::string& path, int64_t length) {
  DataConfig config;
  config.path = path;
  config.sequence_length = length;
  config.valid_fraction = 0;
  return config;
}

TEST(TextSource, RowsAreFixedWindowsOfTheText) {
  Folder folder;
  const std::string text = some_text(1000, 1);
  write_bytes(folder / "t.txt", text);
  DataConfig config = text_config(folder / "t.txt", 99);
  config.shuffle = false;
  const auto source = make_data_source(config, Split::Train, 0);
  ASSERT_EQ(source->rows_per_epoch(), 10);  // 10 * 99 + 1 <= 1000
  EXPECT_EQ(source->vocab_size(), 256);
  const Batch batch = source->rows(0, 10);
  for (int64_t i = 0; i < 10; ++i) {
    for (int64_t t = 0; t < 99; ++t) {
      ASSERT_EQ(batch.tokens[i][t].item<int64_t>(),
                static_cast<unsigned char>(text[static_cast<size_t>(i * 99 + t)]));
      ASSERT_EQ(batch.labels[i][t].item<int64_t>(),
                static_cast<unsigned char>(text[static_cast<size_t>(i * 99 + t + 1)]));
      ASSERT_EQ(batch.positions[i][t].item<int64_t>(), t);
    }
  }
  EXPECT_FALSE(batch.segments.defined());
  expect_equal(source->rows(20, 30), batch);  // in order in every epoch
  config.sequence_length = 333;               // 3 * 333 + 1 == 1000
  EXPECT_EQ(make_data_source(config, Split::Train, 0)->rows_per_epoch(), 3);
  config.sequence_length = 500;
  EXPECT_EQ(make_data_source(config, Split::Train, 0)->rows_per_epoch(), 1);
}

TEST(TextSource, ShufflesEveryEpochInItsOwnOrder) {
  Folder folder;
  write_bytes(folder / "t.txt", some_text(4000, 1));
  DataConfig config = text_config(folder / "t.txt", 32);
  const auto source = make_data_source(config, Split::Train, 7),
             other = make_data_source(config, Split::Train, 8);
  config.shuffle = false;
  const auto in_order = make_data_source(config, Split::Train, 7);
  const int64_t n = source->rows_per_epoch();
  const auto rows_of = [](const DataSource& from, int64_t begin, int64_t end) {
    std::vector<std::vector<int64_t>> out;
    const Batch batch = from.rows(begin, end);
    for (int64_t i = 0; i < end - begin; ++i) out.push_back(ids(batch.tokens[i]));
    return out;
  };
  auto plain = rows_of(*in_order, 0, n), first = rows_of(*source, 0, n),
       second = rows_of(*source, n, 2 * n);
  auto another = rows_of(*other, 0, n);
  EXPECT_NE(first, plain);
  EXPECT_NE(first, second);
  EXPECT_NE(first, another);
  for (auto* rows : {&plain, &first, &second, &another}) std::sort(rows->begin(), rows->end());
  EXPECT_EQ(first, plain);  // each epoch has each row once
  EXPECT_EQ(second, plain);
  EXPECT_EQ(another, plain);
  EXPECT_NE(source->fingerprint(), other->fingerprint());
  EXPECT_EQ(in_order->fingerprint(), make_data_source(config, Split::Train, 9)->fingerprint());
}

TEST(TextSource, IsPureWhateverTheLayout) {
  Folder folder;
  write_bytes(folder / "t.txt", some_text(3000, 1));
  for (const char* tokenizer : {"bytes", "chars"}) {
    DataConfig config = text_config(folder / "t.txt", 64);
    config.tokenizer = tokenizer;
    config.valid_fraction = 0.2;
    expect_pure(config, Split::Train, 3, 0, 100);  // two epochs and more
    expect_pure(config, Split::Valid, 3, 2, 30);
  }
}

TEST(TextSource, ValidationIsTheEndAndNeverTraining) {
  Folder folder;
  const std::string text = some_text(20000, 9);
  write_bytes(folder / "t.txt", text);
  for (double fraction : {0.02, 0.1, 0.5}) {
    DataConfig config = text_config(folder / "t.txt", 1);
    config.shuffle = false;
    config.valid_fraction = fraction;
    const auto train = make_data_source(config, Split::Train, 0),
               valid = make_data_source(config, Split::Valid, 0);
    const auto text_of = [&](const DataSource& source) {
      const Batch batch = source.rows(0, source.rows_per_epoch());
      std::string out;
      for (int64_t id : ids(batch.tokens)) out += static_cast<char>(id);
      return out + static_cast<char>(
                       ids(batch.labels).back());  // the label of the last row is a token too
    };
    EXPECT_EQ(text_of(*train) + text_of(*valid), text);
    EXPECT_EQ(text_of(*train).back(), '\n');  // cut after a line
    EXPECT_NEAR(static_cast<double>(text_of(*valid).size()), 20000 * fraction, 100);
    EXPECT_NE(train->fingerprint(), valid->fingerprint());
    // Validation rows do not depend on the seed or on shuffling.
    config.shuffle = true;
    const auto again = make_data_source(config, Split::Valid, 5);
    expect_equal(again->rows(0, 20), valid->rows(0, 20));
    EXPECT_EQ(again->fingerprint(), valid->fingerprint());
  }
  // A file of its own: then nothing is held back.
  write_bytes(folder / "v.txt", some_text(500, 4));
  DataConfig config = text_config(folder / "t.txt", 50);
  config.valid_fraction = 0.3;
  config.valid_path = folder / "v.txt";
  EXPECT_EQ(make_data_source(config, Split::Train, 0)->rows_per_epoch(), (20000 - 1) / 50);
  EXPECT_EQ(make_data_source(config, Split::Valid, 0)->rows_per_epoch(), (500 - 1) / 50);
  config.valid_path = "";
  config.valid_fraction = 0;
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Valid, 0); }),
                  "data.valid_fraction: got 0");
}

TEST(TextSource, CharactersComeFromTheTrainingPart) {
  Folder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += "\xc3\xa4pfel und b\xc3\xa4ume\n";
  text += "Zz";
  for (int i = 0; i < 20; ++i) text += "\xc3\xa4pfel und b\xc3\xa4ume\n";
  write_bytes(folder / "t.txt", text);
  DataConfig config = text_config(folder / "t.txt", 10);
  config.tokenizer = "chars";
  config.valid_fraction = 0.2;
  config.shuffle = false;
  const auto train = make_data_source(config, Split::Train, 0),
             valid = make_data_source(config, Split::Valid, 0);
  const auto tokenizer = make_data_tokenizer(config);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(train->vocab_size(), 12 + 1);  // newline, space, 10 letters and the unknown
  EXPECT_EQ(tokenizer->vocab_size(), 13);
  const auto decoded = [&](const DataSource& source) {
    const auto tokens = ids(source.rows(0, source.rows_per_epoch()).tokens);
    return tokenizer->decode({tokens.begin(), tokens.end()});
  };
  EXPECT_EQ(text.rfind(decoded(*train), 0), 0u);
  expect_contains(decoded(*valid),
                  "\xef\xbf\xbd\xef\xbf\xbd\xc3\xa4pfel und");  // Z and z are not in the table
  config.vocab_size = 12;
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); }),
                  "model.vocab_size: got 12, allowed: at least 13");
}

TEST(TextSource, FoldersAreReadInOrderOfNamesAndSplitByName) {
  Folder folder;
  write_bytes(folder / "b.txt", "bbbb");
  write_bytes(folder / "a.txt", "aaa");
  write_bytes(folder / "c.md", "not this");
  write_bytes(folder / ".hidden.txt", "nor this");
  DataConfig config = text_config(folder.path(), 3);
  config.shuffle = false;
  const Batch batch = make_data_source(config, Split::Train, 0)->rows(0, 2);
  EXPECT_EQ(ids(batch.tokens), (std::vector<int64_t>{'a', 'a', 'a', 'b', 'b', 'b'}));
  EXPECT_EQ(ids(batch.labels), (std::vector<int64_t>{'a', 'a', 'b', 'b', 'b', 'b'}));
  write_bytes(folder / "train_0.txt", "ttttt");
  write_bytes(folder / "valid.txt", "vvvvvvv");
  EXPECT_EQ(ids(make_data_source(config, Split::Train, 0)->rows(0, 1).tokens),
            (std::vector<int64_t>{'t', 't', 't'}));
  EXPECT_EQ(make_data_source(config, Split::Valid, 0)->rows_per_epoch(), 2);
  Folder empty;
  config.path = empty.path();
  expect_contains(message_of<DataError>([&] { make_data_source(config, Split::Train, 0); }),
                  "no files named *.txt");
}

TEST(TextSource, SentencePieceModelsAreAppliedAtStart) {
  Folder folder;
  const std::string text = some_text(200000, 3);
  write_bytes(folder / "t.txt", text);
  train_sentencepiece(folder / "t.txt", folder / "m", 320, "bpe", 2);
  DataConfig config = text_config(folder / "t.txt", 20);
  config.tokenizer = "sentencepiece";
  config.tokenizer_model = folder / "m.model";
  config.shuffle = false;
  const auto source = make_data_source(config, Split::Train, 0);
  EXPECT_EQ(source->vocab_size(), 320);
  const auto tokens = ids(source->rows(0, source->rows_per_epoch()).tokens);
  const std::string decoded = make_data_tokenizer(config)->decode({tokens.begin(), tokens.end()});
  EXPECT_EQ(text.compare(0, decoded.size(), decoded), 0);
  EXPECT_GT(decoded.size(), 199000u);
  expect_pure(config, Split::Train, 0, 5, 25);
  config.tokenizer_model = "";
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); }),
                  "data.tokenizer_model");
}

TEST(TokenSource, EveryFormatGivesTheSameRows) {
  Folder folder;
  const auto stored = some_ids(5001, 3000);
  StrataFile ours = StrataFile::of(stored, {1000, 5001});
  ours.vocab_size = 3000;
  write_bytes(folder / "ours.tokens", ours.bytes());
  write_bytes(folder / "llmc.bin", llmc_header(20240520, 1, 5001) + numbers<uint16_t>(stored));
  write_bytes(folder / "raw.bin", numbers<uint16_t>(stored));
  write_bytes(folder / "meg.bin", numbers<int32_t>(stored));
  write_bytes(folder / "meg.idx", MegatronIndex::of({1000, 4001}, 4, 4).bytes());
  {
    io::HdfFile file(folder / "set.h5", io::HdfFile::Mode::Create);
    const int64_t tokens_at = file.create_dataset("/tokens", at::kInt, {5001});
    const int64_t ends_at = file.create_dataset("/document_ends", at::kLong, {2});
    file.close();
    std::string bytes = read_bytes(folder / "set.h5");
    bytes.replace(static_cast<size_t>(tokens_at), 5001 * 4, numbers<int32_t>(stored));
    bytes.replace(static_cast<size_t>(ends_at), 16, numbers<int64_t>({1000, 5001}));
    write_bytes(folder / "set.h5", bytes);
  }
  std::vector<Batch> plain, packed;
  for (const char* name : {"ours.tokens", "llmc.bin", "raw.bin", "meg", "set.h5"}) {
    SCOPED_TRACE(name);
    DataConfig config = text_config(folder / name, 100);
    config.source = std::string(name) == "set.h5" ? "hdf5" : "tokens";
    config.vocab_size = 3000;
    expect_pure(config, Split::Train, 1, 0, 60);
    plain.push_back(make_data_source(config, Split::Train, 1)->rows(0, 120));
    if (name[0] == 'l' || name[0] == 'r') continue;  // no documents recorded
    config.pack_documents = true;
    packed.push_back(make_data_source(config, Split::Train, 1)->rows(0, 120));
  }
  for (const Batch& batch : plain) expect_equal(batch, plain[0]);
  for (const Batch& batch : packed) expect_equal(batch, packed[0]);
  EXPECT_EQ(ids(packed[0].tokens), ids(plain[0].tokens));
}

TEST(TokenSource, ValidationIsCutAtADocumentWhenOneIsNear) {
  Folder folder;
  const auto stored = some_ids(1000, 100);
  const auto cut_of = [&](const std::vector<int64_t>& ends) {
    write_bytes(folder / "t", StrataFile::of(stored, ends).bytes());
    DataConfig config = text_config(folder / "t", 1);
    config.source = "tokens";
    config.valid_fraction = 0.1;
    const auto train = make_data_source(config, Split::Train, 0),
               valid = make_data_source(config, Split::Valid, 0);
    EXPECT_EQ(train->rows_per_epoch() + 1 + valid->rows_per_epoch() + 1, 1000);
    const int64_t cut = train->rows_per_epoch() + 1;
    EXPECT_EQ(ids(valid->rows(0, 1).tokens)[0], stored[static_cast<size_t>(cut)]);
    return cut;
  };
  EXPECT_EQ(cut_of({}), 900);
  EXPECT_EQ(cut_of({500, 870, 1000}), 870);
  EXPECT_EQ(cut_of({500, 900, 1000}), 900);
  EXPECT_EQ(cut_of({500, 901, 1000}), 900);  // 500 would hold back half of the data
  EXPECT_EQ(cut_of({950, 1000}), 900);
}

TEST(TokenSource, VocabularyMustBeKnownAndFit) {
  Folder folder;
  write_bytes(folder / "raw.bin", numbers<uint16_t>(some_ids(100, 50)));
  DataConfig config = text_config(folder / "raw.bin", 10);
  config.source = "tokens";
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); }),
                  "data.vocab_size: got 0");
  config.vocab_size = 50;
  EXPECT_EQ(make_data_source(config, Split::Train, 0)->vocab_size(), 50);
  write_bytes(folder / "ours",
              StrataFile::of(some_ids(100, 50)).bytes());  // records a vocabulary of 100
  config.path = folder / "ours";
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); }),
                  "model.vocab_size: got 50, allowed: at least 100");
  config.vocab_size = 0;
  EXPECT_EQ(make_data_source(config, Split::Train, 0)->vocab_size(), 100);
}

TEST(HdfSource, RefusesSetsThatAreNone) {
  Folder folder;
  const auto open = [&](const std::string& name) {
    DataConfig config = text_config(folder / name, 10);
    config.source = "hdf5";
    config.vocab_size = 100;
    return message_of<DataError>([&] { make_data_source(config, Split::Train, 0); });
  };
  const auto write = [&](const std::string& name, const std::string& set, at::ScalarType type,
                         const Shape& shape, const std::string& bytes) {
    io::HdfFile file(folder / name, io::HdfFile::Mode::Create);
    const int64_t at = file.create_dataset(set, type, shape);
    file.close();
    std::string all = read_bytes(folder / name);
    all.replace(static_cast<size_t>(at), bytes.size(), bytes);
    write_bytes(folder / name, all);
  };
  write_bytes(folder / "text.h5", "no HDF5 at all");
  expect_contains(open("text.h5"), "not an HDF5 file");
  write_bytes(folder / "cut.h5", std::string("\x89HDF\r\n\x1a\n", 8) + std::string(20, '\0'));
  expect_contains(open("cut.h5"), "cannot be read as HDF5");
  expect_contains(open("missing.h5"), "No such file");
  write("other.h5", "/ids", at::kLong, {2}, numbers<int64_t>({1, 2}));
  expect_contains(open("other.h5"), "no data set \"tokens\" (found: /ids)");
  write("shape.h5", "/tokens", at::kLong, {2, 2}, numbers<int64_t>({1, 2, 3, 4}));
  expect_contains(open("shape.h5"), "shape [2, 2], allowed: one dimension");
  write("float.h5", "/tokens", at::kFloat, {2}, std::string(8, '\0'));
  expect_contains(open("float.h5"), "elements of type f32, allowed: integers");
  write("negative.h5", "/tokens", at::kLong, {3}, numbers<int64_t>({1, 2, -3}));
  expect_contains(open("negative.h5"), "negative.h5, token 2: id -3");
  write("short.h5", "/tokens", at::kLong, {3}, numbers<int64_t>({1, 2, 3}));
  expect_contains(open("short.h5"), "holds 3 tokens, but one row");
  write("big.h5", "/tokens", at::kLong, {11},
        numbers<int64_t>({1, 2, 3, 4, 5, 6, 700, 8, 9, 10, 11}));
  DataConfig config = text_config(folder / "big.h5", 10);
  config.source = "hdf5";
  config.vocab_size = 100;
  const auto source = make_data_source(config, Split::Train, 0);
  expect_contains(message_of<DataError>([&] { source->rows(0, 1); }), "big.h5, token 6: id 700");
}

TEST(DataSource, FingerprintsTellDataAndSettingsApart) {
  Folder folder;
  std::string text = some_text(5000, 1);
  write_bytes(folder / "t.txt", text);
  std::filesystem::copy_file(folder / "t.txt", folder / "copy.txt");
  text[4000] = text[4000] == 'x' ? 'y' : 'x';
  write_bytes(folder / "other.txt", text);
  std::map<std::string, std::string> seen;
  const auto add = [&](const std::string& name, const std::function<void(DataConfig&)>& change) {
    DataConfig config = text_config(folder / "t.txt", 64);
    change(config);
    const std::string print = make_data_source(config, Split::Train, 1)->fingerprint();
    EXPECT_EQ(seen.count(print), 0u) << name << " equals " << seen[print];
    seen[print] = name;
    return print;
  };
  const std::string base = add("base", [](DataConfig&) {});
  add("text", [&](DataConfig& c) { c.path = folder / "other.txt"; });
  add("length", [](DataConfig& c) { c.sequence_length = 65; });
  add("order", [](DataConfig& c) { c.shuffle = false; });
  add("chars", [](DataConfig& c) { c.tokenizer = "chars"; });
  add("part", [](DataConfig& c) { c.valid_fraction = 0.1; });
  add("packed", [](DataConfig& c) { c.pack_documents = true, c.document_end = '\n'; });
  add("packed otherwise", [](DataConfig& c) { c.pack_documents = true, c.document_end = '.'; });
  add("masked", [](DataConfig& c) { c.mask_fraction = 0.15; });
  DataConfig moved = text_config(folder / "copy.txt", 64);
  EXPECT_EQ(make_data_source(moved, Split::Train, 1)->fingerprint(), base);
}

TEST(DataSource, LabelsAndFactsForTheLog) {
  Folder folder;
  write_bytes(folder / "t.txt", some_text(1500000, 1));
  DataConfig config = text_config(folder / "t.txt", 256);
  expect_contains(make_data_source(config, Split::Train, 0)->description(),
                  "1,500,000 tokens, 5,859 rows of 256, shuffled");
}

TEST(DataConfig, IsReadFromARunFileAndContradictionsAreFound) {
  ConfigReader reader;
  DataConfig config;
  reader.add_ini("[data]\nsource = recall\nsequence_length = 128\nshuffle = false\npairs = 8\n",
                 "run.ini");
  visit_section(reader, "data", "data", config);
  reader.finish();
  EXPECT_EQ(config.source, "recall");
  EXPECT_EQ(config.sequence_length, 128);
  EXPECT_EQ(config.pairs, 8);
  EXPECT_FALSE(config.shuffle);
  ConfigReader wrong;
  wrong.add_ini(
      "[data]\nsource = text\ntokenizer = sentencepiece\nsequence_length = 0\nvalid_fraction = 1\n",
      "run.ini");
  DataConfig other;
  visit_section(wrong, "data", "data", other);
  const std::string message = message_of<ConfigError>([&] { wrong.finish(); });
  for (const char* key : {"tokenizer_model", "sequence_length", "valid_fraction"})
    expect_contains(message, key);
  config.source = "recal";
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); }),
                  "Did you mean \"recall\"?");
  config.source = "text";
  config.path = "";
  expect_contains(message_of<ConfigError>([&] { make_data_source(config, Split::Train, 0); }),
                  "data.path");
}

}  // namespace
}  // namespace strata
