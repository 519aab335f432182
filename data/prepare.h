#pragma once
// `strata data prepare` and `strata data inspect` without their command line.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace strata {

struct PrepareOptions {
  std::vector<std::string> inputs;         // text files
  std::string output;                      // token file
  std::string tokenizer = "bytes";
  std::string tokenizer_model;             // SentencePiece: read, or written when train_vocab > 0
  int64_t train_vocab = 0;                 // > 0: train a SentencePiece model of this size first
  std::string document_separator;          // text that ends a document ("" : a file is a document; "\n\n", "<|endoftext|>")
  double valid_fraction = 0;               // > 0: also writes <output>.valid with the last part, cut at a document border
  int threads = 0;
};
struct PrepareReport {
  int64_t text_bytes = 0, tokens = 0, documents = 0, valid_tokens = 0, vocab_size = 0;
  double seconds = 0;
};
// Encodes in parallel; the output does not depend on the number of threads. progress: fraction done.
PrepareReport prepare_tokens(const PrepareOptions& options, const std::function<void(double)>& progress = {});

// What a data file holds, for people: format, sizes, id range, documents, first tokens (decoded when a tokenizer is given).
std::string inspect_data(const std::string& path, const std::string& tokenizer = "", const std::string& tokenizer_model = "");

}  // namespace strata
