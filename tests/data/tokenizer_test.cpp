#include "data/tokenizer.h"

#include <thread>

#include "data/encode.h"
#include "data/utf8.h"
#include "tests/data/files.h"

namespace strata {
namespace {

using namespace data_test;

TEST(Utf8, AcceptsAndRefusesWhatTheStandardSays) {
  for (const std::string& text :
       std::vector<std::string>{"", "plain", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                                "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(utf8::first_invalid("0123456789" + text), std::string::npos);
  }
  for (const std::string& text : std::vector<std::string>{
           "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
           "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x98"}) {
    EXPECT_EQ(utf8::first_invalid("0123456789" + text + "more"), 10u);
  }
  for (const char* cut : {"\xc3", "\xe2", "\xe2\x82", "\xf0\x9f\x98"})
    EXPECT_TRUE(utf8::is_cut_off(cut));
  for (const char* whole : {"\xc3\xa4", "\x80", "\xff", "\xe0\x80", "a"})
    EXPECT_FALSE(utf8::is_cut_off(whole));
}

TEST(Utf8, EveryCodePointComesBack) {
  std::string text;
  for (char32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 37) {
    if (c < 0xD800 || c > 0xDFFF) utf8::append(text, c);
  }
  EXPECT_EQ(utf8::first_invalid(text), std::string::npos);
  std::string again;
  for (size_t pos = 0; pos < text.size();) utf8::append(again, utf8::next(text, pos));
  EXPECT_EQ(again, text);
}

TEST(Tokenizer, BytesRoundTripAnything) {
  const auto tokenizer = make_tokenizer("bytes", "");
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const auto encoded = tokenizer->encode(all);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(encoded[static_cast<size_t>(i)], i);
  EXPECT_EQ(tokenizer->decode(encoded), all);
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_EQ(tokenizer->bytes_per_token(), 1);
  EXPECT_EQ(tokenizer->document_end(), -1);
  EXPECT_EQ(tokenizer->decode({'a', 256, -1}), "a\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Tokenizer, CharactersAreNumberedInOrder) {
  const auto tokenizer = make_tokenizer("chars", "",
                                        "b\xc3\xa4\na\xf0\x9f\x98\x80"
                                        "bb");
  EXPECT_EQ(tokenizer->vocab_size(), 6);
  EXPECT_EQ(tokenizer->encode("\nab\xc3\xa4\xf0\x9f\x98\x80"),
            (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(tokenizer->encode("xa\xff"), (std::vector<int32_t>{5, 1, 5}));
  EXPECT_EQ(tokenizer->decode({3, 2, 5, 99}),
            "\xc3\xa4"
            "b\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(tokenizer->bytes_per_token(), 0);
  Folder folder;
  write_bytes(folder / "table",
              "\na\xf0\x9f\x98\x80"
              "b\xc3\xa4");
  EXPECT_EQ(make_tokenizer("chars", folder / "table")->encode("b"), (std::vector<int32_t>{2}));
  write_bytes(folder / "bad", "ab\xff");
  expect_contains(message_of<DataError>([&] { make_tokenizer("chars", folder / "bad"); }),
                  "byte 2: ff");
  expect_contains(message_of<ConfigError>([&] { make_tokenizer("chars", ""); }),
                  "data.tokenizer_model");
  expect_contains(message_of<ConfigError>([&] { make_tokenizer("char", ""); }),
                  "Did you mean \"chars\"?");
  expect_contains(message_of<ConfigError>([&] { make_tokenizer("sentencepiece", ""); }),
                  "data.tokenizer_model");
}

TEST(SentencePiece, TrainsEncodesAndDecodesExactly) {
  Folder folder;
  const std::string text = some_text(60000, 2) +
                           "Gr\xc3\xbc\xc3\x9f"
                           "e  two spaces\ttab\n\n\n  end";
  write_bytes(folder / "t.txt", text);
  for (const char* type : {"bpe", "unigram"}) {
    SCOPED_TRACE(type);
    train_sentencepiece(folder / "t.txt", folder / type, 310, type, 2);
    const auto tokenizer = make_tokenizer("sentencepiece", folder / (std::string(type) + ".model"));
    EXPECT_EQ(tokenizer->vocab_size(), 310);
    EXPECT_EQ(tokenizer->document_end(), 2);
    const auto encoded = tokenizer->encode(text);
    EXPECT_LT(encoded.size(), text.size() * 2 / 3);
    EXPECT_EQ(tokenizer->decode(encoded), text);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("\xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80")),
              "\xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80");
    EXPECT_EQ(tokenizer->encode(""), std::vector<int32_t>{});
    EXPECT_EQ(tokenizer->decode({-1, 310}), "\xef\xbf\xbd\xef\xbf\xbd");
    const std::string table = read_bytes(folder / (std::string(type) + ".vocab"));
    EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 310);
    // The same again.
    train_sentencepiece(folder / "t.txt", folder / "again", 310, type, 2);
    EXPECT_EQ(read_bytes(folder / "again.model"),
              read_bytes(folder / (std::string(type) + ".model")));
  }
}

TEST(SentencePiece, LongLinesAndSeveralFilesAreUsedWhole) {
  Folder folder;
  std::string line;
  while (line.size() < 9000000)
    line += line.size() % 3000 < 1500 ? "mountain " : "\xc3\xa4ther\xc3\xa4ther ";
  write_bytes(folder / "a.txt", line);  // one line, longer than a read block
  write_bytes(folder / "b.txt", "xylophone\nxylophone\n");
  std::string many;
  for (int i = 0; i < 3000; ++i) many += "xylophone zebra\n";
  write_bytes(folder / "c.txt", many);
  train_sentencepiece(
      std::vector<std::string>{folder / "a.txt", folder / "b.txt", folder / "c.txt"}, folder / "m",
      350, "bpe", 1);
  const auto tokenizer = make_tokenizer("sentencepiece", folder / "m.model");
  EXPECT_EQ(tokenizer->encode(" mountain").size(), 1u);
  EXPECT_LT(tokenizer->encode(" xylophone zebra").size(),
            8u);  // 16 without merges from the last file
}

TEST(SentencePiece, SaysWhyATextCannotBeUsed) {
  Folder folder;
  write_bytes(folder / "t.txt", "too short for that\n");
  const std::string message = message_of<DataError>(
      [&] { train_sentencepiece(folder / "t.txt", folder / "m", 5000, "bpe", 1); });
  expect_contains(message, folder / "t.txt");
  expect_contains(message, "Vocabulary size too high (5000). Please set it to a value <= ");
  expect_contains(message_of<ConfigError>(
                      [&] { train_sentencepiece(folder / "t.txt", folder / "m", 100, "bpe", 1); }),
                  "260..");
  expect_contains(message_of<ConfigError>(
                      [&] { train_sentencepiece(folder / "t.txt", folder / "m", 500, "bbe", 1); }),
                  "Did you mean \"bpe\"?");
  EXPECT_FALSE(std::filesystem::exists(folder / "m.model"));
}

TEST(Encoding, ChunksCoverTheTextAndStayThemselves) {
  std::mt19937 random(1);
  std::vector<std::string> texts = {"", "short", some_text(65536, 1), some_text(500000, 2),
                                    std::string(3 << 20, 'x')};
  std::string wide;
  while (wide.size() < (5u << 20)) wide += "\xe2\x82\xac";
  texts.push_back(wide);
  texts.push_back(std::string(70000, 'a') + "\n" + std::string(70000, 'b') + "\n");
  texts.push_back(std::string(3 << 20, '\x80'));  // no UTF-8 at all
  for (const std::string& text : texts) {
    std::string all;
    for (std::string_view chunk : datasets::encoding_chunks(text)) {
      ASSERT_LE(chunk.size(), size_t{1} << 20);
      ASSERT_EQ(datasets::encoding_chunks(chunk).size(), 1u);
      if (text == wide) {
        ASSERT_EQ(utf8::first_invalid(chunk), std::string::npos);
      }
      all += chunk;
    }
    ASSERT_EQ(all, text);
  }
  EXPECT_GT(datasets::encoding_chunks(texts[3]).size(), 6u);
}

TEST(Encoding, ThreadsDoNotChangeTheIds) {
  Folder folder;
  const std::string text = some_text(400000, 5);
  write_bytes(folder / "t.txt", text.substr(0, 50000));
  train_sentencepiece(folder / "t.txt", folder / "m", 320, "bpe", 1);
  for (const auto& tokenizer : {make_tokenizer("bytes", ""), make_tokenizer("chars", "", text),
                                make_tokenizer("sentencepiece", folder / "m.model")}) {
    const auto expected = tokenizer->encode(text);
    for (int threads : {1, 2, 5, 0})
      EXPECT_EQ(datasets::encode_parallel(*tokenizer, text, threads), expected);
    EXPECT_EQ(tokenizer->decode(expected), text);
  }
}

TEST(Encoding, TheFirstErrorOfParallelTasksIsThrown) {
  for (int threads : {1, 4}) {
    std::atomic<int> ran{0};
    const std::string message = message_of<DataError>([&] {
      datasets::parallel_tasks(100, threads, [&](int64_t i) {
        ++ran;
        if (i == 20 || i == 21) throw DataError("task " + std::to_string(i));
        if (i > 21) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    });
    EXPECT_EQ(message, "task 20");
    EXPECT_LT(ran, 100);
  }
}

}  // namespace
}  // namespace strata
