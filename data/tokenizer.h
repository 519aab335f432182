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
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;    // thread safe
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  virtual int64_t document_end() const { return -1; }                      // id, -1: none
  // Bytes of text per token id for bits-per-byte; 0 when it depends on the text.
  virtual double bytes_per_token() const { return 0; }
};

// kind: bytes (256 ids), chars (table from the text `corpus`), sentencepiece (model file).
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& kind, const std::string& model_file,
                                          std::string_view corpus = {});
// Trains a SentencePiece model on a text file and writes <model_prefix>.model and .vocab. threads 0: all cores.
void train_sentencepiece(const std::string& text_file, const std::string& model_prefix, int64_t vocab_size,
                         const std::string& model_type, int threads);

}  // namespace strata
