#pragma once
// Text to token ids and back.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string name() const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;  // thread safe
  // Ids outside the vocabulary (a model may have more) become U+FFFD. Thread safe.
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  virtual int64_t document_end() const { return -1; }  // id, -1: none
  // Bytes of text per token id for bits-per-byte; 0 when it depends on the text.
  virtual double bytes_per_token() const { return 0; }
};

// kind: bytes | chars | sentencepiece.
//   bytes          256 ids, the bytes of UTF-8 text or of anything else
//   chars          one id for each different character of `corpus` (or of the text in model_file)
//   in order of code
//                  points, and a last id for all other characters
//   sentencepiece  model_file; long texts are encoded in pieces of 64 KiB or more that end with a
//   line (data/encode.h)
// Throws ConfigError for a wrong kind or a missing model_file, DataError for a file that is no
// model.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& kind, const std::string& model_file,
                                          std::string_view corpus = {});

// Trains a SentencePiece model on a text file and writes <model_prefix>.model and .vocab. threads
// 0: all cores. model_type: bpe | unigram | char | word. Every byte has an id of its own and text
// is not normalised, so that decoding gives back the text exactly (but for "word"). The same text
// and number of threads give the same model.
void train_sentencepiece(const std::string& text_file, const std::string& model_prefix,
                         int64_t vocab_size, const std::string& model_type, int threads);
// On several files, as one text.
void train_sentencepiece(const std::vector<std::string>& text_files,
                         const std::string& model_prefix, int64_t vocab_size,
                         const std::string& model_type, int threads);

}  // namespace strata
