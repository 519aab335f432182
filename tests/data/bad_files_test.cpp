// Data files that cannot be used: each is a DataError that names the file and says where and what.
#include <sys/stat.h>

#include "data/prepare.h"
#include "data/source.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "tests/data/files.h"

namespace strata {
namespace {

using namespace data_test;

struct BadFile {
  std::string name;  // of the file
  std::string bytes;
  std::string expected;  // part of the message
  TokenFormat format = TokenFormat::Auto;
};

StrataFile good() { return StrataFile::of(some_ids(10, 99), {4, 10}); }

std::string changed(const std::function<void(StrataFile&)>& change) {
  StrataFile file = good();
  change(file);
  return file.bytes();
}

std::string flipped(std::string bytes, size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
  return bytes;
}

std::vector<BadFile> token_files() {
  const std::string ours = good().bytes();
  const std::string llmc = llmc_header(20240520, 1, 4) + numbers<uint16_t>({1, 2, 3, 4});
  return {
      {"empty.bin", "", "is empty (0 bytes)"},
      {"odd.bin", std::string("\1\0\2", 3), "3 bytes, an odd length"},
      {"one_byte.bin", std::string("\1", 1), "odd length"},
      {"text.bin", some_text(5000, 1), "text; use data.source = text"},
      {"notes.txt", "hello", "strata data prepare"},
      {"utf8.bin",
       "gr\xc3\xb6\xc3\x9f"
       "er",
       "not a token file but text"},
      {"utf16.bin", std::string("\xff\xfeh\0e\0", 6), "UTF-16"},
      {"utf16be.bin", std::string("\xfe\xff\0h\0e", 6), "UTF-16"},
      {"data.gz", std::string("\x1f\x8b\x08\0\0\0", 6), "compressed (gzip); unpack"},
      {"data.zst", std::string("\x28\xb5\x2f\xfd\0\0", 6), "compressed (zstd); unpack"},
      {"data.xz",
       std::string("\xfd"
                   "7zXZ\0",
                   6),
       "compressed (xz); unpack"},
      {"data.zip", std::string("PK\x03\x04\0\0", 6), "zip archive"},
      {"data.parquet", std::string("PAR1\x15\x04", 6), "Parquet"},
      {"data.npy", std::string("\x93NUMPY\1\0", 8), "NumPy"},
      {"data.h5", std::string("\x89HDF\r\n\x1a\n\0\0", 10), "data.source = hdf5"},
      {"unknown.dat", std::string("\1\2\3\4\5\6\7\0", 8), "starts with 01 02 03 04 05 06 07 00"},
      {"ours_head_cut", ours.substr(0, 40),
       "40 bytes, but the header of a strata token file has 64"},
      {"ours_magic_only", "STRATATK", "8 bytes, but the header"},
      {"ours_truncated", ours.substr(0, ours.size() - 6),
       "102 bytes, but 10 ids of 2 bytes and 2 documents need 108"},
      {"ours_longer", ours + "x", "109 bytes, but 10 ids of 2 bytes and 2 documents need 108"},
      {"ours_version", changed([](StrataFile& f) { f.version = 7; }),
       "byte 8: version 7, this program reads version 1"},
      {"ours_width", changed([](StrataFile& f) { f.width = 3; }),
       "byte 12: 3 bytes per id, allowed: 2, 4"},
      {"ours_tokens_huge", changed([](StrataFile& f) { f.tokens = ~uint64_t{0}; }),
       "byte 16: 18446744073709551615 ids and 2 documents cannot be in a file"},
      {"ours_tokens_overflow", changed([](StrataFile& f) { f.tokens = uint64_t{1} << 63; }),
       "byte 16: 9223372036854775808"},
      {"ours_documents_huge", changed([](StrataFile& f) { f.documents = uint64_t{1} << 61; }),
       "byte 16"},
      {"ours_more_tokens", changed([](StrataFile& f) { f.tokens = 20; }),
       "20 ids of 2 bytes and 2 documents need"},
      {"ours_vocab_huge", changed([](StrataFile& f) { f.vocab_size = uint64_t{1} << 40; }),
       "byte 24: vocabulary of 1099511627776"},
      {"ours_header_flipped", flipped(ours, 17), "checksum of the header"},
      {"ours_id_flipped", flipped(ours, 66), "checksum of the ids"},
      {"ours_crc_flipped", flipped(ours, ours.size() - 1), "checksum of the ids"},
      {"ours_end_backwards", StrataFile::of(some_ids(10, 99), {6, 4, 10}).bytes(),
       "document 1 ends at token 4"},
      {"ours_end_beyond", StrataFile::of(some_ids(10, 99), {4, 11}).bytes(),
       "document 1 ends at token 11, allowed: more than 4 and at most 10"},
      {"ours_end_negative", StrataFile::of(some_ids(10, 99), {-1, 10}).bytes(),
       "document 0 ends at token -1"},
      {"ours_end_zero", StrataFile::of(some_ids(10, 99), {0, 10}).bytes(),
       "document 0 ends at token 0"},
      {"ours_wrong_magic", "NOTTOKEN" + ours.substr(8), "starts with 4e 4f 54 54 4f 4b 45 4e",
       TokenFormat::Strata},
      {"llmc_head_cut.bin", llmc.substr(0, 1000),
       "1000 bytes, but the header of an llm.c token file has 1024"},
      {"llmc_version.bin", llmc_header(20240520, 2, 4) + numbers<uint16_t>({1, 2, 3, 4}),
       "byte 4: version 2 of magic 20240520, allowed: 1"},
      {"llmc_version7.bin", llmc_header(20240801, 1, 2) + numbers<uint32_t>({1, 2}),
       "version 1 of magic 20240801, allowed: 7"},
      {"llmc_none.bin", llmc_header(20240520, 1, 0), "byte 8: 0 tokens"},
      {"llmc_negative.bin", llmc_header(20240520, 1, -5) + "ab", "byte 8: -5 tokens"},
      {"llmc_truncated.bin", llmc.substr(0, llmc.size() - 2),
       "1030 bytes, but 4 ids of 2 bytes need 1032"},
      {"llmc_longer.bin", llmc + "ab", "1034 bytes, but 4 ids of 2 bytes need 1032"},
      {"llmc_magic.bin", llmc_header(20230101, 1, 4) + numbers<uint16_t>({1, 2, 3, 4}),
       "byte 0: magic 20230101 of an llm.c token file, allowed: 20240520, 20240801",
       TokenFormat::Llmc},
  };
}

TEST(BadFiles, TokenFilesSayWhatIsWrongAndWhere) {
  Folder folder;
  for (const BadFile& bad : token_files()) {
    SCOPED_TRACE(bad.name);
    const std::string path = folder / bad.name;
    write_bytes(path, bad.bytes);
    const std::string message = message_of<DataError>([&] { TokenFile::open(path, bad.format); });
    expect_contains(message, path);
    expect_contains(message, bad.expected);
  }
}

struct BadIndex {
  std::string name;
  std::function<void(MegatronIndex&)> change;
  std::string expected;
  std::function<void(std::string& idx, std::string& bin)> cut = {};
};

TEST(BadFiles, MegatronPairsSayWhatIsWrongAndWhere) {
  const std::vector<BadIndex> cases = {
      {"version", [](MegatronIndex& i) { i.version = 2; }, "byte 9: version 2, allowed: 1"},
      {"float", [](MegatronIndex& i) { i.code = 6; }, "byte 17: element code 6"},
      {"code", [](MegatronIndex& i) { i.code = 77; }, "element code 77"},
      {"no_sequences", [](MegatronIndex& i) { i.sequences = 0; }, "byte 18: 0 sequences"},
      {"sequences_huge", [](MegatronIndex& i) { i.sequences = ~uint64_t{0}; },
       "byte 18: 18446744073709551615 sequences"},
      {"marks_huge", [](MegatronIndex& i) { i.mark_count = uint64_t{1} << 62; },
       "byte 26: 4611686018427387904"},
      {"sequences_more", [](MegatronIndex& i) { i.sequences = 4; },
       "4 sequences and 4 document marks need"},
      {"length_negative", [](MegatronIndex& i) { i.lengths[1] = -3; },
       "byte 38: sequence 1 has -3 tokens"},
      {"position", [](MegatronIndex& i) { i.positions[2] = 4; },
       "sequence 2 starts at byte 4 of the .bin file, expected 16"},
      {"position_first", [](MegatronIndex& i) { i.positions[0] = 2; },
       "sequence 0 starts at byte 2"},
      {"mark_beyond", [](MegatronIndex& i) { i.marks[1] = 9; },
       "document mark 1 is 9, allowed: from 0 to 3"},
      {"mark_backwards", [](MegatronIndex& i) { i.marks[1] = 2, i.marks[2] = 1; },
       "document mark 2 is 1"},
      {"mark_first", [](MegatronIndex& i) { i.marks[0] = 1; }, "document mark 0 is 1"},
      {"mark_last", [](MegatronIndex& i) { i.marks[3] = 2; }, "document mark 3 is 2"},
      {"mismatch",
       [](MegatronIndex& i) {
         i = MegatronIndex::of({5, 3, 3});
       },
       "lists 11 tokens of 2 bytes = 22"},
      {"bin_short", [](MegatronIndex&) {}, "do not belong together or one is truncated",
       [](std::string&, std::string& bin) { bin.resize(bin.size() - 1); }},
      {"idx_short", [](MegatronIndex&) {}, "copy the file again",
       [](std::string& idx, std::string&) { idx.resize(50); }},
      {"idx_head", [](MegatronIndex&) {}, "20 bytes, but the header",
       [](std::string& idx, std::string&) { idx.resize(20); }},
  };
  for (const BadIndex& bad : cases) {
    SCOPED_TRACE(bad.name);
    Folder folder;
    MegatronIndex index = MegatronIndex::of({5, 3, 2});
    bad.change(index);
    std::string idx = index.bytes(), bin = numbers<uint16_t>(some_ids(10, 50));
    if (bad.cut) bad.cut(idx, bin);
    write_bytes(folder / "m.idx", idx);
    write_bytes(folder / "m.bin", bin);
    const std::string message = message_of<DataError>([&] { TokenFile::open(folder / "m"); });
    expect_contains(message, folder / "m.");
    expect_contains(message, bad.expected);
  }
  Folder folder;
  write_bytes(folder / "m.idx", MegatronIndex::of({5}).bytes());
  expect_contains(message_of<DataError>([&] { TokenFile::open(folder / "m.idx"); }),
                  "m.bin: cannot be read");
  write_bytes(folder / "n.idx", "NOTANIDX1" + MegatronIndex::of({5}).bytes().substr(9));
  expect_contains(
      message_of<DataError>([&] { TokenFile::open(folder / "n.idx", TokenFormat::Megatron); }),
      "starts with 4e 4f 54 41 4e 49 44 58 31");
}

TEST(BadFiles, PathsThatAreNoReadableFile) {
  Folder folder;
  const auto open = [](const std::string& path) {
    return message_of<DataError>([&] { TokenFile::open(path); });
  };
  expect_contains(open(folder / "missing.bin"), "No such file");
  expect_contains(open(folder.path()), "is a folder");
  expect_contains(open("/dev/null"), "device");
  std::filesystem::create_symlink(folder / "b", folder / "a");
  std::filesystem::create_symlink(folder / "a", folder / "b");
  expect_contains(open(folder / "a"), "cannot be read");
  std::filesystem::create_symlink(folder / "nothing", folder / "dangling");
  expect_contains(open(folder / "dangling"), "No such file");
  write_bytes(folder / "file", "x");
  expect_contains(open(folder / "file/inside"), "Not a directory");
  expect_contains(open(folder / std::string(300, 'n')), "File name too long");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_contains(open(folder / "pipe"), "pipe");
  DataConfig config;
  config.source = "text";
  config.path = folder / "pipe";
  expect_contains(message_of<DataError>([&] { make_data_source(config, Split::Train, 0); }),
                  "pipe");
  expect_contains(message_of<DataError>([&] { inspect_data(folder / "missing"); }), "No such file");
}

DataConfig tokens_config(const std::string& path) {
  DataConfig config;
  config.source = "tokens";
  config.path = path;
  config.sequence_length = 4;
  config.valid_fraction = 0;
  config.vocab_size = 100;
  return config;
}

TEST(BadFiles, IdsBeyondTheVocabularyNameFilePlaceAndValue) {
  Folder folder;
  std::vector<int64_t> ids = some_ids(101, 100);
  ids[57] = 100;
  write_bytes(folder / "train.bin", numbers<uint16_t>(ids));
  const auto source = make_data_source(tokens_config(folder / "train.bin"), Split::Train, 0);
  const std::string message =
      message_of<DataError>([&] { source->rows(0, source->rows_per_epoch()); });
  expect_contains(message, folder / "train.bin, token 57: id 100 does not fit a vocabulary of 100");
  // Rows without that id can be read.
  int64_t readable = 0;
  for (int64_t row = 0; row < source->rows_per_epoch(); ++row) {
    try {
      source->rows(row, row + 1);
      ++readable;
    } catch (const DataError&) {
    }
  }
  EXPECT_EQ(readable, source->rows_per_epoch() - 1);
}

TEST(BadFiles, NegativeIdsAreRefused) {
  Folder folder;
  std::vector<int64_t> ids = some_ids(41, 100);
  ids[3] = -2;
  write_bytes(folder / "m.bin", numbers<int32_t>(ids));
  write_bytes(folder / "m.idx", MegatronIndex::of({41}, 4, 4).bytes());
  const auto source = make_data_source(tokens_config(folder / "m"), Split::Train, 0);
  expect_contains(message_of<DataError>([&] { source->rows(0, 10); }), "token 3: id -2");
}

TEST(BadFiles, TheShardOfAFolderIsNamed) {
  Folder folder;
  std::vector<int64_t> ids = some_ids(40, 100);
  write_bytes(folder / "x_1.bin", numbers<uint16_t>(ids));
  ids[9] = 30000;
  write_bytes(folder / "x_2.bin", numbers<uint16_t>(ids));
  const auto source = make_data_source(tokens_config(folder.path()), Split::Train, 0);
  expect_contains(message_of<DataError>([&] { source->rows(0, source->rows_per_epoch()); }),
                  folder / "x_2.bin, token 9: id 30000");
}

TEST(BadFiles, FilesThatChangeDuringARunEndItWithAMessage) {
  for (const char* what : {"text", "tokens"}) {
    for (int change : {-1000, -1, 1}) {
      SCOPED_TRACE(std::string(what) + std::to_string(change));
      Folder folder;
      const std::string path = folder / "train.bin";
      const auto ids = some_ids(40000, 100);
      write_bytes(path, std::string(what) == "text" ? some_text(80000, 3) : numbers<uint16_t>(ids));
      DataConfig config = tokens_config(path);
      config.source = what;
      config.vocab_size = 256;
      const auto source = make_data_source(config, Split::Train, 0);
      source->rows(0, 4);
      std::filesystem::resize_file(path, static_cast<uintmax_t>(80000 + change));
      const std::string message = message_of<DataError>([&] { source->rows(4, 8); });
      expect_contains(message, path);
      expect_contains(message, "changed while it was in use: 80000 bytes when it was opened, ");
      expect_contains(message, std::to_string(80000 + change) + " bytes when byte ");
    }
  }
}

TEST(BadFiles, TooLittleDataSaysHowMuchIsNeeded) {
  Folder folder;
  write_bytes(folder / "t.txt", some_text(100, 1));
  DataConfig config;
  config.path = folder / "t.txt";
  config.valid_fraction = 0;
  std::string message = message_of<DataError>([&] { make_data_source(config, Split::Train, 0); });
  expect_contains(message, folder / "t.txt");
  expect_contains(message, "holds 100 tokens, but one row of data.sequence_length = 256 needs 257");
  expect_contains(message, "set data.sequence_length to at most 99");
  config.sequence_length = 99;
  EXPECT_EQ(make_data_source(config, Split::Train, 0)->rows_per_epoch(), 1);
  write_bytes(folder / "t.txt", some_text(10000, 1));
  config.sequence_length = 200;
  config.valid_fraction = 0.01;
  message = message_of<DataError>([&] { make_data_source(config, Split::Valid, 0); });
  expect_contains(message, "the validation part of " + (folder / "t.txt"));
  expect_contains(message, "data.valid_path");
}

TEST(BadFiles, TextThatIsNotUtf8) {
  Folder folder;
  std::string text = some_text(3000, 1);
  text[1234] = '\xff';
  write_bytes(folder / "t.txt", text);
  DataConfig config;
  config.path = folder / "t.txt";
  config.tokenizer = "chars";
  const std::string message =
      message_of<DataError>([&] { make_data_source(config, Split::Train, 0); });
  expect_contains(message, folder / "t.txt, byte 1234: ff");
  config.tokenizer = "bytes";
  EXPECT_GT(make_data_source(config, Split::Train, 0)->rows_per_epoch(), 5);
  PrepareOptions options;
  options.inputs = {folder / "t.txt"};
  options.output = folder / "out";
  options.tokenizer = "chars";
  expect_contains(message_of<DataError>([&] { prepare_tokens(options); }), "byte 1234: ff");
}

// Random bytes and random damage: never anything but a DataError, and never an id that was not
// stored.
void open_and_read(const std::string& path) {
  try {
    const auto file = TokenFile::open(path);
    std::vector<int64_t> ids(static_cast<size_t>(std::min<int64_t>(file->size(), 64)));
    file->read(0, static_cast<int64_t>(ids.size()), ids.data());
    int64_t before = 0;
    for (int64_t end : file->document_ends()) {
      ASSERT_GT(end, before);
      ASSERT_LE(end, file->size());
      before = end;
    }
  } catch (const DataError& error) {
    ASSERT_NE(std::string(error.what()), "");
  }
}

TEST(BadFiles, FuzzedTokenFiles) {
  Folder folder;
  std::mt19937 random(20240520);
  const std::vector<std::string> seeds = {
      good().bytes(), llmc_header(20240520, 1, 4) + numbers<uint16_t>({1, 2, 3, 4}),
      numbers<uint16_t>(some_ids(50, 60000)), some_text(300, 2)};
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = seeds[random() % seeds.size()];
    for (uint32_t k = random() % 4 + 1; k > 0; --k) {
      const size_t at = random() % bytes.size();
      switch (random() % 5) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.resize(at + 1);
          break;
        case 2:
          bytes.insert(at, std::string(random() % 9, static_cast<char>(random())));
          break;
        case 3:
          bytes.replace(at, std::min<size_t>(8, bytes.size() - at),
                        number(uint64_t{random()} << (random() % 40)), 0,
                        std::min<size_t>(8, bytes.size() - at));
          break;
        default:  // damage behind a valid checksum of the header
          if (bytes.size() >= 64) {
            bytes[12 + random() % 30] = static_cast<char>(random());
            bytes.replace(60, 4, number(io::crc32c(bytes.substr(0, 60))));
          }
      }
    }
    write_bytes(folder / "fuzz.bin", bytes);
    open_and_read(folder / "fuzz.bin");
  }
}

TEST(BadFiles, FuzzedMegatronIndexes) {
  Folder folder;
  std::mt19937 random(7);
  write_bytes(folder / "m.bin", numbers<uint16_t>(some_ids(10, 50)));
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = MegatronIndex::of({5, 3, 2}).bytes();
    for (uint32_t k = random() % 3 + 1; k > 0; --k) {
      const size_t at = 9 + random() % (bytes.size() - 9);
      if (random() % 6 == 0) {
        bytes.resize(at + 1);
      } else {
        bytes[at] = static_cast<char>(random() % 3 == 0 ? random() : random() % 5);
      }
      if (bytes.size() <= 10) break;
    }
    write_bytes(folder / "m.idx", bytes);
    open_and_read(folder / "m");
  }
}

TEST(BadFiles, FuzzedSentencePieceModels) {
  Folder folder;
  std::mt19937 random(11);
  write_bytes(folder / "text.txt", some_text(20000, 5));
  train_sentencepiece(folder / "text.txt", folder / "m", 320, "bpe", 1);
  const std::string good_model = read_bytes(folder / "m.model");
  write_bytes(folder / "r", "this is not a model");
  expect_contains(message_of<DataError>([&] { make_tokenizer("sentencepiece", folder / "r"); }),
                  "not a SentencePiece model");
  expect_contains(message_of<DataError>([&] { make_tokenizer("sentencepiece", folder / "none"); }),
                  "No such file");
  for (int round = 0; round < 60; ++round) {
    std::string bytes = good_model;
    bytes.resize(1 + random() % bytes.size());
    write_bytes(folder / "cut.model", bytes);
    try {
      const auto tokenizer = make_tokenizer("sentencepiece", folder / "cut.model");
      for (int32_t id : tokenizer->encode("the river over")) EXPECT_LT(id, tokenizer->vocab_size());
    } catch (const DataError& error) {
      expect_contains(error.what(), folder / "cut.model");
    }
  }
}

}  // namespace
}  // namespace strata
