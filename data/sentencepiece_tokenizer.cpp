#include "data/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "data/encode.h"
#include "data/input_file.h"
#include "data/utf8.h"

namespace strata {
namespace datasets {
namespace sentencepiece_detail {

constexpr int64_t kLargestModel = int64_t{64} << 20;
// Lines are offered to the trainer in parts of at most this many bytes: it drops longer ones.
constexpr size_t kLongestLine = 4096;
// Of larger texts every k-th line is used.
constexpr int64_t kTrainingBytes = int64_t{256} << 20;
constexpr size_t kReadBlock = size_t{4} << 20;

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& model_file) : file_(model_file) {
    const InputFile file(model_file);
    if (file.size() > kLargestModel) {
      throw DataError(cat(model_file, ": ", file.size(),
                          " bytes, a SentencePiece model has at most ", kLargestModel));
    }
    const auto status = processor_.LoadFromSerializedProto(file.head(file.size()));
    if (!status.ok()) {
      throw DataError(cat(model_file, ": not a SentencePiece model, or a damaged one (",
                          status.ToString(), "); train one with `strata data prepare`"));
    }
    if (processor_.GetPieceSize() < 1)
      throw DataError(cat(model_file, ": the SentencePiece model has no pieces"));
  }
  std::string name() const override { return "sentencepiece"; }
  int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> out;
    std::vector<int> ids;
    for (std::string_view chunk : encoding_chunks(text)) {
      const auto status = processor_.Encode(chunk, &ids);
      if (!status.ok())
        throw DataError(
            cat(file_, ": cannot encode a text of ", chunk.size(), " bytes: ", status.ToString()));
      out.insert(out.end(), ids.begin(), ids.end());
    }
    return out;
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    // Runs of known ids are decoded together, because pieces of one character may be several ids.
    std::string out;
    std::vector<int> run;
    const auto decode_run = [&] {
      std::string text;
      if (!run.empty() && processor_.Decode(run, &text).ok()) out += text;
      run.clear();
    };
    for (int32_t id : ids) {
      if (id >= 0 && id < processor_.GetPieceSize()) {
        run.push_back(id);
        continue;
      }
      decode_run();
      utf8::append(out, 0xFFFD);
    }
    decode_run();
    return out;
  }
  int64_t document_end() const override { return processor_.eos_id(); }

 private:
  std::string file_;
  sentencepiece::SentencePieceProcessor processor_;
};

// The lines of text files, cut to what the trainer accepts; of a large text evenly chosen ones.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& paths) {
    int64_t total = 0;
    for (const std::string& path : paths) {
      files_.push_back(std::make_unique<InputFile>(path));
      total += files_.back()->size();
    }
    every_ = (total + kTrainingBytes - 1) / kTrainingBytes;
    advance();
  }
  bool done() const override { return done_; }
  void Next() override { advance(); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void advance() {
    do {
      if (!next_line()) {
        done_ = true;
        return;
      }
    } while (line_.empty() || number_++ % every_ != 0);
  }

  bool next_line() {
    for (;;) {
      size_t end = buffer_.find('\n', at_);
      const bool complete = end != std::string::npos;
      if (!complete && buffer_.size() - at_ <= kLongestLine && refill()) continue;
      if (at_ == buffer_.size()) return false;
      end = std::min(complete ? end : buffer_.size(), at_ + kLongestLine);
      const bool cut = end < buffer_.size() && buffer_[end] != '\n';
      if (cut) {
        while (end > at_ + kLongestLine - 4 && utf8::boundary_after(buffer_, end) != end) --end;
      }
      line_.assign(buffer_, at_, end - at_);
      // The trainer takes a sentence with a zero byte for the end of a file.
      std::replace(line_.begin(), line_.end(), '\0', ' ');
      at_ = cut ? end : std::min(end + 1, buffer_.size());
      return true;
    }
  }

  // More text behind what is left of the buffer; false at the end of the last file.
  bool refill() {
    if (file_ == files_.size()) return false;
    const InputFile& file = *files_[file_];
    const auto bytes = static_cast<size_t>(std::min<int64_t>(kReadBlock, file.size() - offset_));
    buffer_.erase(0, at_);
    at_ = 0;
    const size_t old = buffer_.size();
    buffer_.resize(old + bytes);
    file.read(offset_, static_cast<int64_t>(bytes), buffer_.data() + old);
    offset_ += static_cast<int64_t>(bytes);
    if (offset_ == file.size()) {
      if (buffer_.back() != '\n') buffer_ += '\n';
      ++file_;
      offset_ = 0;
    }
    return true;
  }

  std::vector<std::unique_ptr<InputFile>> files_;
  size_t file_ = 0;
  int64_t offset_ = 0, number_ = 0, every_ = 1;
  std::string buffer_, line_;
  size_t at_ = 0;
  bool done_ = false;
};

}  // namespace sentencepiece_detail

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& model_file) {
  return std::make_unique<sentencepiece_detail::SentencePieceTokenizer>(model_file);
}

}  // namespace datasets

void train_sentencepiece(const std::string& text_file, const std::string& model_prefix,
                         int64_t vocab_size, const std::string& model_type, int threads) {
  train_sentencepiece(std::vector<std::string>{text_file}, model_prefix, vocab_size, model_type,
                      threads);
}

void train_sentencepiece(const std::vector<std::string>& text_files,
                         const std::string& model_prefix, int64_t vocab_size,
                         const std::string& model_type, int threads) {
  const std::vector<std::string> types = {"bpe", "unigram", "char", "word"};
  if (std::find(types.begin(), types.end(), model_type) == types.end()) {
    throw ConfigError("model-type", cat('"', model_type, '"'), join(types),
                      did_you_mean(model_type, types));
  }
  // Byte pieces and the three special ones must fit; what else must fit depends on the text, the
  // trainer says it.
  if (vocab_size < 260 || vocab_size > 4'000'000) {
    throw ConfigError("train-vocab", cat(vocab_size), "260..4000000",
                      " (256 ids are single bytes)");
  }
  datasets::sentencepiece_detail::Lines lines(text_files);
  const std::unordered_map<std::string, std::string> settings = {
      {"vocab_size", std::to_string(vocab_size)},
      {"model_type", model_type},
      {"num_threads", std::to_string(datasets::thread_count(threads))},
      {"byte_fallback", "true"},
      {"character_coverage", model_type == "char" ? "1.0" : "0.9995"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"max_sentence_length", std::to_string(2 * datasets::sentencepiece_detail::kLongestLine)},
      {"minloglevel", "3"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
  if (!status.ok()) {
    throw DataError(cat(join(text_files), ": no SentencePiece model of ", vocab_size, " ids (",
                        model_type, ") can be trained on this text: ", status.ToString()));
  }
  io::write_text_atomic(model_prefix + ".model", model);
  sentencepiece::SentencePieceProcessor processor;
  const auto loaded = processor.LoadFromSerializedProto(model);
  STRATA_CHECK(loaded.ok(), loaded.ToString());
  std::string table;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    table += cat(processor.IdToPiece(id), '\t', processor.GetScore(id), '\n');
  }
  io::write_text_atomic(model_prefix + ".vocab", table);
}

}  // namespace strata
