#include "data/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/input_file.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/utf8.h"

namespace strata {
namespace tokenizer_detail {

constexpr char32_t kReplacement = 0xFFFD;

class ByteTokenizer final : public Tokenizer {
 public:
  std::string name() const override { return "bytes"; }
  int64_t vocab_size() const override { return 256; }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> out(text.size());
    std::transform(text.begin(), text.end(), out.begin(),
                   [](char c) { return static_cast<unsigned char>(c); });
    return out;
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string out;
    for (int32_t id : ids) {
      if (id >= 0 && id < 256) {
        out += static_cast<char>(static_cast<unsigned char>(id));
      } else {
        utf8::append(out, kReplacement);
      }
    }
    return out;
  }
  double bytes_per_token() const override { return 1; }
};

class CharTokenizer final : public Tokenizer {
 public:
  explicit CharTokenizer(std::string_view corpus) {
    std::vector<bool> seen(0x110000);
    for (size_t pos = 0; pos < corpus.size();) {
      const char32_t c = utf8::next(corpus, pos);
      if (c != utf8::kInvalid) seen[c] = true;
    }
    for (char32_t c = 0; c < seen.size(); ++c) {
      if (!seen[c]) continue;
      ids_.resize(c + 1, -1);
      ids_[c] = static_cast<int32_t>(table_.size());
      table_.push_back(c);
    }
  }
  std::string name() const override { return "chars"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(table_.size()) + 1; }
  std::vector<int32_t> encode(std::string_view text) const override {
    const auto unknown = static_cast<int32_t>(table_.size());
    std::vector<int32_t> out;
    out.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const char32_t c = utf8::next(text, pos);
      const int32_t id = c < ids_.size() ? ids_[c] : -1;
      out.push_back(id >= 0 ? id : unknown);
    }
    return out;
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string out;
    for (int32_t id : ids) {
      utf8::append(out, id >= 0 && static_cast<size_t>(id) < table_.size()
                            ? table_[static_cast<size_t>(id)]
                            : kReplacement);
    }
    return out;
  }

 private:
  std::vector<char32_t> table_;  // character of each id
  std::vector<int32_t> ids_;     // id of each character, -1: none
};

}  // namespace tokenizer_detail

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& kind, const std::string& model_file,
                                          std::string_view corpus) {
  if (kind == "bytes") return std::make_unique<tokenizer_detail::ByteTokenizer>();
  if (kind == "chars") {
    if (model_file.empty()) {
      if (corpus.empty()) {
        throw ConfigError("data.tokenizer_model", "nothing", "a text with every character",
                          " (data.tokenizer = chars needs one where there is no training text)");
      }
      return std::make_unique<tokenizer_detail::CharTokenizer>(corpus);
    }
    const datasets::InputFile file(model_file);
    const std::string text = file.head(file.size());
    const size_t invalid = utf8::first_invalid(text);
    if (invalid != std::string::npos) {
      throw DataError(cat(model_file, ": byte ", invalid, ": ",
                          datasets::hex_bytes(text.substr(invalid), 4),
                          " is not UTF-8; a file of characters is UTF-8 text"));
    }
    return std::make_unique<tokenizer_detail::CharTokenizer>(text);
  }
  if (kind == "sentencepiece") {
    if (model_file.empty()) {
      throw ConfigError(
          "data.tokenizer_model", "nothing", "a SentencePiece model file",
          " (data.tokenizer = sentencepiece reads one; train it with `strata data prepare`)");
    }
    return datasets::load_sentencepiece(model_file);
  }
  const std::vector<std::string> kinds = {"bytes", "chars", "sentencepiece"};
  throw ConfigError("data.tokenizer", cat('"', kind, '"'), join(kinds), did_you_mean(kind, kinds));
}

}  // namespace strata
