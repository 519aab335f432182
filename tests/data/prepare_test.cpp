#include "data/prepare.h"

#include "data/source.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "tests/data/rows.h"

namespace strata {
namespace {

using namespace data_test;

std::vector<int32_t> stored(const std::string& path) {
  const auto file = TokenFile::open(path);
  std::vector<int64_t> wide(static_cast<size_t>(file->size()));
  file->read(0, file->size(), wide.data());
  return {wide.begin(), wide.end()};
}

PrepareOptions options_for(const Folder& folder, const std::string& tokenizer) {
  PrepareOptions options;
  options.inputs = {folder / "a.txt"};
  options.output = folder / "out.tokens";
  options.tokenizer = tokenizer;
  return options;
}

TEST(Prepare, BytesKeepTheTextAndItsSeparators) {
  Folder folder;
  write_bytes(folder / "a.txt", "one\n\ntwo\n\n\n\nthree");
  write_bytes(folder / "b.txt", "four\n\n");
  PrepareOptions options = options_for(folder, "bytes");
  options.inputs.push_back(folder / "b.txt");
  options.document_separator = "\n\n";
  const PrepareReport report = prepare_tokens(options);
  EXPECT_EQ(make_tokenizer("bytes", "")->decode(stored(options.output)),
            "one\n\ntwo\n\nthreefour\n\n");
  EXPECT_EQ(TokenFile::open(options.output)->document_ends(),
            (std::vector<int64_t>{5, 10, 15, 21}));
  EXPECT_EQ(report.documents, 4);
  EXPECT_EQ(report.tokens, 21);
  EXPECT_EQ(report.text_bytes, 17 + 6);
  EXPECT_EQ(report.vocab_size, 256);
  options.document_separator = "";
  prepare_tokens(options);
  EXPECT_EQ(TokenFile::open(options.output)->document_ends(), (std::vector<int64_t>{17, 23}));
}

TEST(Prepare, SentencePieceIsTrainedAndEndsDocumentsWithItsId) {
  Folder folder;
  write_bytes(folder / "a.txt", some_text(60000, 7) + "<|end|>last words");
  PrepareOptions options = options_for(folder, "sentencepiece");
  options.tokenizer_model = folder / "new.model";
  options.train_vocab = 320;
  options.document_separator = "<|end|>";
  const PrepareReport report = prepare_tokens(options);
  EXPECT_EQ(report.documents, 2);
  EXPECT_EQ(report.vocab_size, 320);
  const auto tokenizer = make_tokenizer("sentencepiece", folder / "new.model");
  const auto tokens = stored(options.output);
  EXPECT_EQ(static_cast<int64_t>(tokens.size()), report.tokens);
  EXPECT_EQ(tokenizer->decode(tokens), some_text(60000, 7) + "last words");
  EXPECT_EQ(tokens.back(), tokenizer->document_end());
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), tokenizer->document_end()), 2);
  const auto ends = TokenFile::open(options.output)->document_ends();
  EXPECT_EQ(tokens[static_cast<size_t>(ends[0] - 1)], tokenizer->document_end());
}

TEST(Prepare, ThreadsDoNotChangeTheFiles) {
  Folder folder;
  write_bytes(folder / "a.txt", some_text(300000, 1));
  write_bytes(folder / "b.txt", some_text(100000, 2));
  for (const char* tokenizer : {"bytes", "chars", "sentencepiece"}) {
    SCOPED_TRACE(tokenizer);
    std::string model, tokens, valid;
    for (int threads : {1, 2, 7}) {
      PrepareOptions options = options_for(folder, tokenizer);
      options.inputs.push_back(folder / "b.txt");
      options.document_separator = "\n\n";
      options.valid_fraction = 0.1;
      options.threads = threads;
      if (std::string(tokenizer) == "sentencepiece") {
        options.tokenizer_model = folder / "m.model";
        options.train_vocab = 320;
      }
      double last = 0;
      const PrepareReport report = prepare_tokens(options, [&](double done) {
        EXPECT_GE(done, last);
        last = done;
      });
      EXPECT_EQ(last, 1.0);
      EXPECT_EQ(TokenFile::open(options.output)->size(), report.tokens);
      EXPECT_EQ(TokenFile::open(options.output + ".valid")->size(), report.valid_tokens);
      const std::string now = read_bytes(options.output),
                        now_valid = read_bytes(options.output + ".valid");
      const std::string now_model =
          options.train_vocab > 0 ? read_bytes(options.tokenizer_model) : "";
      if (threads > 1) {
        EXPECT_EQ(now, tokens);
        EXPECT_EQ(now_valid, valid);
        EXPECT_EQ(now_model, model);
      }
      tokens = now, valid = now_valid, model = now_model;
    }
  }
}

TEST(Prepare, ValidationIsTheEndCutAtADocument) {
  Folder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += std::string(9, static_cast<char>('a' + i % 26)) + "|";
  write_bytes(folder / "a.txt", text);
  PrepareOptions options = options_for(folder, "bytes");
  options.document_separator = "|";
  options.valid_fraction = 0.123;
  prepare_tokens(options);
  const auto tokenizer = make_tokenizer("bytes", "");
  const std::string train = tokenizer->decode(stored(options.output)),
                    valid = tokenizer->decode(stored(options.output + ".valid"));
  EXPECT_EQ(train + valid, text);
  EXPECT_EQ(valid.size(), 120u);  // whole documents, no more than asked for
  // One document: after a line.
  write_bytes(folder / "a.txt", some_text(5000, 3));
  options.document_separator = "";
  prepare_tokens(options);
  const std::string first = tokenizer->decode(stored(options.output));
  EXPECT_EQ(first + tokenizer->decode(stored(options.output + ".valid")), some_text(5000, 3));
  EXPECT_EQ(first.back(), '\n');
  EXPECT_NEAR(static_cast<double>(first.size()), 5000 * 0.877, 150);
}

TEST(Prepare, CharactersAreWrittenForLaterRuns) {
  Folder folder;
  write_bytes(folder / "a.txt", some_text(20000, 3) + "\xc3\xa4");
  PrepareOptions options = options_for(folder, "chars");
  prepare_tokens(options);
  const auto tokenizer = make_tokenizer("chars", options.output + ".chars");
  EXPECT_EQ(tokenizer->decode(stored(options.output)), some_text(20000, 3) + "\xc3\xa4");
  EXPECT_EQ(TokenFile::open(options.output)->vocab_size(), tokenizer->vocab_size());
  // A prepared file is a token source whose ids the tokenizer of the run can read.
  DataConfig config;
  config.source = "tokens";
  config.path = options.output;
  config.tokenizer = "chars";
  config.tokenizer_model = options.output + ".chars";
  config.sequence_length = 50;
  config.shuffle = false;
  const auto tokens = ids(make_data_source(config, Split::Train, 0)->rows(0, 1).tokens);
  EXPECT_EQ(make_data_tokenizer(config)->decode({tokens.begin(), tokens.end()}),
            some_text(20000, 3).substr(0, 50));
}

TEST(Prepare, FoldersAreReadAndContradictionsListed) {
  Folder folder;
  write_bytes(folder / "b.txt", "bb");
  write_bytes(folder / "a.txt", "aa");
  PrepareOptions options;
  options.inputs = {folder.path()};
  options.output = folder / "out";
  prepare_tokens(options);
  EXPECT_EQ(make_tokenizer("bytes", "")->decode(stored(options.output)), "aabb");
  options.inputs = {folder / "a.txt"};
  options.output = folder / "a.txt";
  options.train_vocab = 1000;
  options.valid_fraction = 1;
  const std::string message = message_of<ConfigError>([&] { prepare_tokens(options); });
  for (const char* part : {"out: got", "train-vocab", "tokenizer-model", "valid-fraction"})
    expect_contains(message, part);
  EXPECT_EQ(read_bytes(folder / "a.txt"), "aa");
  options = options_for(folder, "bytes");
  options.inputs.push_back(folder / "missing.txt");
  expect_contains(message_of<DataError>([&] { prepare_tokens(options); }),
                  "missing.txt: cannot be read");
  options = options_for(folder, "bytes");
  options.output = folder / "no/such/out";
  expect_contains(message_of<ConfigError>([&] { prepare_tokens(options); }),
                  "a folder that exists");
  options = options_for(folder, "bytes");
  options.valid_fraction = 0.5;
  write_bytes(folder / "a.txt", "x");
  expect_contains(message_of<DataError>([&] { prepare_tokens(options); }),
                  "too few for a validation part");
  options.valid_fraction = 0;
  options.document_separator = "x";
  options.tokenizer = "bytes";
  EXPECT_THROW(prepare_tokens(options), DataError);  // nothing but a separator
}

TEST(Inspect, TellsWhatAFileHolds) {
  Folder folder;
  write_bytes(folder / "a.txt", "hello \xc3\xa4\nworld\n");
  std::string text = inspect_data(folder / "a.txt");
  for (const char* part :
       {"format:", "text", "15 bytes", "UTF-8", "lines:", "hello \xc3\xa4\\nworld\\n"})
    expect_contains(text, part);
  write_bytes(folder / "bad.txt", "hello\xff there");
  expect_contains(inspect_data(folder / "bad.txt"), "not UTF-8: byte 5");
  PrepareOptions options = options_for(folder, "bytes");
  prepare_tokens(options);
  text = inspect_data(options.output, "bytes");
  for (const char* part :
       {"strata, checksums agree", "tokens:        15", "vocabulary:    256", "10 to 195",
        "1 of 15 to 15 tokens", "104 101 108", "decoded:       hello \xc3\xa4\\nworld"}) {
    expect_contains(text, part);
  }
  write_bytes(folder / "m.bin", numbers<uint16_t>({3, 900, 5}));
  write_bytes(folder / "m.idx", MegatronIndex::of({2, 1}).bytes());
  text = inspect_data(folder / "m");
  for (const char* part :
       {"Megatron", "not recorded, at least 901", "3 to 900", "2 of 1 to 2 tokens", "3 900 5"})
    expect_contains(text, part);
  write_bytes(folder / "wrong", StrataFile::of({1, 2, 100, 5}).bytes());
  expect_contains(inspect_data(folder / "wrong"), "PROBLEM: outside the vocabulary, see token 2");
}

}  // namespace
}  // namespace strata
