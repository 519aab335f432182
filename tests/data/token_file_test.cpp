#include "data/token_file.h"

#include <thread>

#include "tests/data/files.h"

namespace strata {
namespace {

using namespace data_test;

std::vector<int64_t> all_ids(const TokenFile& file) {
  std::vector<int64_t> out(static_cast<size_t>(file.size()));
  file.read(0, file.size(), out.data());
  return out;
}

void expect_file(const std::string& path, TokenFormat format, const std::vector<int64_t>& ids,
                 int64_t vocab_size, const std::vector<int64_t>& ends) {
  const auto file = TokenFile::open(path);
  EXPECT_EQ(file->format(), format);
  EXPECT_EQ(file->size(), static_cast<int64_t>(ids.size()));
  EXPECT_EQ(file->vocab_size(), vocab_size);
  EXPECT_EQ(file->document_ends(), ends);
  EXPECT_EQ(all_ids(*file), ids);
  // Any part alone.
  for (int64_t begin : {int64_t{0}, int64_t{1}, file->size() / 2, file->size() - 1}) {
    for (int64_t count : {int64_t{0}, int64_t{1}, file->size() - begin}) {
      if (begin + count > file->size()) continue;
      std::vector<int64_t> part(static_cast<size_t>(count));
      file->read(begin, count, part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), ids.begin() + begin));
    }
  }
}

TEST(TokenFile, ReadsOurFormatOfBothWidths) {
  Folder folder;
  for (uint32_t width : {2u, 4u}) {
    for (int64_t count : {1, 3, 4, 1000, 70001}) {
      const auto ids = some_ids(count, 99);
      const std::vector<int64_t> ends =
          count > 3 ? std::vector<int64_t>{1, 3, count} : std::vector<int64_t>{};
      write_bytes(folder / "t", StrataFile::of(ids, ends, width).bytes());
      expect_file(folder / "t", TokenFormat::Strata, ids, 100, ends);
    }
  }
}

TEST(TokenFile, ReadsLlmcOfBothVersions) {
  Folder folder;
  const auto ids = some_ids(20000, 50257), wide = some_ids(300, 128256);
  write_bytes(folder / "a.bin", llmc_header(20240520, 1, 20000) + numbers<uint16_t>(ids));
  write_bytes(folder / "b.bin", llmc_header(20240801, 7, 300) + numbers<uint32_t>(wide));
  expect_file(folder / "a.bin", TokenFormat::Llmc, ids, 0, {});
  expect_file(folder / "b.bin", TokenFormat::Llmc, wide, 0, {});
}

TEST(TokenFile, ReadsRawUint16) {
  Folder folder;
  const auto ids = some_ids(5000, 65536);
  write_bytes(folder / "train.bin", numbers<uint16_t>(ids));
  expect_file(folder / "train.bin", TokenFormat::NanoGpt, ids, 0, {});
  // With the format given, the name and the contents do not matter.
  write_bytes(folder / "x.dat", "plain text!!");
  EXPECT_EQ(TokenFile::open(folder / "x.dat", TokenFormat::NanoGpt)->size(), 6);
}

TEST(TokenFile, ReadsMegatronPairsOfEveryIntegerType) {
  Folder folder;
  const std::vector<int64_t> lengths = {5, 1, 0, 94};
  const auto ids = some_ids(100, 100);
  const auto check = [&](int width, uint8_t code, const std::string& bytes) {
    write_bytes(folder / "m.bin", bytes);
    MegatronIndex index = MegatronIndex::of(lengths, width, code);
    write_bytes(folder / "m.idx", index.bytes());
    for (const char* name : {"m", "m.bin", "m.idx"}) {
      expect_file(folder / name, TokenFormat::Megatron, ids, 0, {5, 6, 100});
    }
    write_bytes(folder / "m.idx",
                index.bytes() + std::string(lengths.size(), '\0'));  // with sequence modes
    expect_file(folder / "m", TokenFormat::Megatron, ids, 0, {5, 6, 100});
    // Two sequences per document.
    index.marks = {0, 2, 4};
    index.mark_count = 3;
    write_bytes(folder / "m.idx", index.bytes());
    expect_file(folder / "m", TokenFormat::Megatron, ids, 0, {6, 100});
  };
  check(1, 1, numbers<uint8_t>(ids));
  check(1, 2, numbers<int8_t>(ids));
  check(2, 3, numbers<int16_t>(ids));
  check(4, 4, numbers<int32_t>(ids));
  check(8, 5, numbers<int64_t>(ids));
  check(2, 8, numbers<uint16_t>(ids));
}

TEST(TokenFile, NegativeNumbersStayNegative) {
  Folder folder;
  write_bytes(folder / "m.bin", numbers<int32_t>({3, -7, 2}));
  write_bytes(folder / "m.idx", MegatronIndex::of({3}, 4, 4).bytes());
  EXPECT_EQ(all_ids(*TokenFile::open(folder / "m")), (std::vector<int64_t>{3, -7, 2}));
}

TEST(TokenFileWriter, WritesTheDocumentedBytes) {
  Folder folder;
  for (int64_t vocab : {100, 65536, 65537}) {
    TokenFileWriter writer(folder / "t", vocab);
    writer.append({1, 2, 3});
    writer.end_document();
    writer.end_document();  // an empty document is none
    writer.append({});
    writer.append({4, 99});
    writer.commit();
    StrataFile expected = StrataFile::of({1, 2, 3, 4, 99}, {3, 5}, vocab <= 65536 ? 2 : 4);
    expected.vocab_size = static_cast<uint64_t>(vocab);
    EXPECT_EQ(read_bytes(folder / "t"), expected.bytes());
  }
}

TEST(TokenFileWriter, LargeFilesComeBack) {
  Folder folder;
  std::vector<int64_t> ids, ends;
  TokenFileWriter writer(folder / "t", 200000);
  std::mt19937 random(1);
  while (ids.size() < 700000) {
    std::vector<int32_t> part(random() % 5000);
    for (int32_t& id : part) id = static_cast<int32_t>(random() % 200000);
    writer.append(part);
    ids.insert(ids.end(), part.begin(), part.end());
    writer.end_document();
    if (!part.empty()) ends.push_back(static_cast<int64_t>(ids.size()));
  }
  writer.commit();
  expect_file(folder / "t", TokenFormat::Strata, ids, 200000, ends);
}

TEST(TokenFileWriter, IsAtomicAndChecksIds) {
  Folder folder;
  write_bytes(folder / "t", "old");
  {
    TokenFileWriter writer(folder / "t", 10);
    writer.append({1, 2});
    EXPECT_EQ(read_bytes(folder / "t"), "old");
  }
  EXPECT_EQ(read_bytes(folder / "t"), "old");
  EXPECT_FALSE(std::filesystem::exists(folder / "t.tmp"));
  TokenFileWriter writer(folder / "t", 10);
  writer.append({1, 2});
  const std::string message = message_of<DataError>([&] { writer.append({3, 10}); });
  expect_contains(message, "token 3");
  expect_contains(message, "id 10");
  TokenFileWriter empty(folder / "e", 10);
  expect_contains(message_of<DataError>([&] { empty.commit(); }), "no tokens");
}

TEST(TokenFile, IsReadByManyThreads) {
  Folder folder;
  const auto ids = some_ids(60000, 5000);
  write_bytes(folder / "train.bin", numbers<uint16_t>(ids));
  const auto file = TokenFile::open(folder / "train.bin");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      std::vector<int64_t> part(500);
      for (int k = 0; k < 300; ++k) {
        const int64_t begin = random() % 59500;
        file->read(begin, 500, part.data());
        wrong[static_cast<size_t>(t)] += !std::equal(part.begin(), part.end(), ids.begin() + begin);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace strata
