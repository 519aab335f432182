#pragma once
// `strata data prepare` and `strata data inspect` without their command line.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace strata {

struct PrepareOptions {
  std::vector<std::string> inputs;  // text files, or folders of *.txt
  std::string output;               // token file
  // With chars, <output>.chars is written: data.tokenizer_model of runs that decode the ids.
  std::string tokenizer = "bytes";
  std::string tokenizer_model;     // SentencePiece: read, or written when train_vocab > 0
  int64_t train_vocab = 0;         // > 0: train a SentencePiece model of this size first
  std::string model_type = "bpe";  // of the model trained: bpe | unigram | char | word
  // Text that ends a document ("": a file is a document; "\n\n", "<|endoftext|>"). A tokenizer with
  // a document_end id writes that id instead of it; without one the separator stays in the text.
  std::string document_separator;
  // > 0: also writes <output>.valid with the last part, cut at a document border (a single
  // document: at a line end).
  double valid_fraction = 0;
  int threads = 0;  // 0: all cores
};
struct PrepareReport {
  int64_t text_bytes = 0, tokens = 0, documents = 0, valid_tokens = 0, vocab_size = 0;
  double seconds = 0;
};
// Encodes in parallel; the output does not depend on the number of threads. progress: fraction
// done. Throws ConfigError for contradictory options, DataError for inputs that cannot be used
// (missing, empty, not UTF-8).
PrepareReport prepare_tokens(const PrepareOptions& options,
                             const std::function<void(double)>& progress = {});

// What a data file holds, for people: format, sizes, id range, documents, first tokens (decoded
// when a tokenizer is given). Reads the whole file; throws DataError when it is damaged.
std::string inspect_data(const std::string& path, const std::string& tokenizer = "",
                         const std::string& tokenizer_model = "");

}  // namespace strata
