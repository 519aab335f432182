#include "data/prepare.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "data/encode.h"
#include "data/input_file.h"
#include "data/source_kinds.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

namespace strata {
namespace prepare_detail {

using datasets::InputFile;
using datasets::TextPart;

// A SentencePiece model depends a little on the number of threads that train it, so prepared data
// must not.
constexpr int kTrainingThreads = 16;
// Text encoded before anything is written: enough for many threads, little enough to hold.
constexpr size_t kWave = size_t{64} << 20;

void check_options(const PrepareOptions& options) {
  std::vector<std::string> problems;
  const auto problem = [&](const std::string& key, const std::string& given,
                           const std::string& allowed, const std::string& hint = {}) {
    problems.push_back(problem_text(key, given, allowed, hint));
  };
  if (options.inputs.empty()) problem("inputs", "nothing", "one or more text files");
  if (options.output.empty()) problem("out", "nothing", "the token file to write");
  for (const std::string& input : options.inputs) {
    std::error_code ignored;
    if (std::filesystem::equivalent(input, options.output, ignored)) {
      problem("out", cat('"', options.output, '"'), "a file that is not an input");
    }
  }
  if (!(options.valid_fraction >= 0 && options.valid_fraction < 1)) {
    problem("valid-fraction", number_text(options.valid_fraction), "number in [0, 1)");
  }
  if (options.train_vocab > 0 && options.tokenizer != "sentencepiece") {
    problem("train-vocab", cat(options.train_vocab), "0",
            cat(" (only tokenizer = sentencepiece is trained, this is ", options.tokenizer, ")"));
  }
  if (options.train_vocab > 0 && !ends_with(options.tokenizer_model, ".model")) {
    problem("tokenizer-model", cat('"', options.tokenizer_model, '"'),
            "a file name ending in .model", " (the model that is trained is written there)");
  }
  if (options.threads < 0) problem("threads", cat(options.threads), "0 (all cores) or more");
  if (!problems.empty()) throw ConfigError(problems);
}

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// The inputs, or the *.txt files of folders among them.
std::vector<std::string> input_files(const PrepareOptions& options) {
  std::vector<std::string> out;
  for (const std::string& input : options.inputs) {
    if (!datasets::is_folder(input)) {
      out.push_back(input);
      continue;
    }
    const std::vector<std::string> files = datasets::files_in(input, {".txt"});
    if (files.empty()) throw DataError(cat(input, ": the folder has no files named *.txt"));
    out.insert(out.end(), files.begin(), files.end());
  }
  return out;
}

// One file's text, mapped; it must not change while it is prepared.
struct Text {
  std::string path;
  io::MappedFile map;
  explicit Text(const std::string& file) : path(file) {
    datasets::check_readable(file);
    map = io::MappedFile(file);
  }
};

// A document, or the part of one that goes to the same output.
struct Piece {
  std::string_view text;
  bool ends_document = true;
};

// Documents of a text in order; the separator is kept at their ends when `keep`.
std::vector<Piece> documents_of(std::string_view text, const std::string& separator, bool keep) {
  std::vector<Piece> out;
  while (!text.empty()) {
    const size_t found = separator.empty() ? std::string_view::npos : text.find(separator);
    const size_t size = found == std::string_view::npos ? text.size() : found;
    const size_t whole = found == std::string_view::npos ? size : found + separator.size();
    if (size > 0) out.push_back({text.substr(0, keep ? whole : size)});
    text.remove_prefix(whole);
  }
  return out;
}

// Cuts `pieces` where the last `fraction` of their bytes begins: at a document border, or, when
// that would leave one side empty, within the only document after a line.
std::vector<Piece> take_validation(std::vector<Piece>& pieces, double fraction) {
  int64_t total = 0;
  for (const Piece& piece : pieces) total += static_cast<int64_t>(piece.text.size());
  const auto held_back = static_cast<int64_t>(static_cast<double>(total) * fraction);
  if (held_back == 0) return {};
  if (pieces.size() == 1) {
    const std::string_view text = pieces[0].text;
    size_t cut = text.size() - static_cast<size_t>(held_back);
    const size_t line = text.rfind('\n', cut);
    cut = line != std::string_view::npos && line + 1 < text.size()
              ? line + 1
              : utf8::boundary_after(text, cut);
    if (cut == 0 || cut == text.size()) return {};
    pieces[0] = {text.substr(0, cut), false};
    return {{text.substr(cut), true}};
  }
  int64_t kept = 0;
  size_t first = 0;
  while (first < pieces.size() && kept < total - held_back)
    kept += static_cast<int64_t>(pieces[first++].text.size());
  first = std::clamp<size_t>(first, 1, pieces.size() - 1);
  std::vector<Piece> out(pieces.begin() + static_cast<std::ptrdiff_t>(first), pieces.end());
  pieces.resize(first);
  return out;
}

// A stretch of text that one thread encodes: short documents together, long ones in chunks.
struct Job {
  std::vector<Piece> pieces;
  size_t bytes = 0;
};

std::vector<Job> jobs_of(const std::vector<Piece>& pieces) {
  constexpr size_t kJob = size_t{64} << 10;
  std::vector<Job> out;
  for (const Piece& piece : pieces) {
    const std::vector<std::string_view> chunks = datasets::encoding_chunks(piece.text);
    for (size_t i = 0; i < chunks.size(); ++i) {
      if (out.empty() || out.back().bytes >= kJob) out.emplace_back();
      out.back().pieces.push_back({chunks[i], piece.ends_document && i + 1 == chunks.size()});
      out.back().bytes += chunks[i].size();
    }
  }
  return out;
}

class Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, int threads, int64_t total,
          const std::function<void(double)>& progress)
      : tokenizer_(tokenizer), threads_(threads), total_(total), progress_(progress) {}

  // Writes `pieces` as one token file; {tokens, documents}.
  std::pair<int64_t, int64_t> write(const std::vector<Piece>& pieces, const std::string& path) {
    TokenFileWriter writer(path, tokenizer_.vocab_size());
    const std::vector<Job> jobs = jobs_of(pieces);
    int64_t tokens = 0, documents = 0;
    for (size_t begin = 0; begin < jobs.size();) {
      size_t end = begin, bytes = 0;
      while (end < jobs.size() && bytes < kWave) bytes += jobs[end++].bytes;
      std::vector<std::vector<std::vector<int32_t>>> ids(end - begin);
      datasets::parallel_tasks(static_cast<int64_t>(end - begin), threads_, [&](int64_t i) {
        ids[static_cast<size_t>(i)] = encode(jobs[begin + static_cast<size_t>(i)]);
      });
      for (size_t i = 0; i < ids.size(); ++i) {
        for (size_t p = 0; p < ids[i].size(); ++p) {
          writer.append(ids[i][p]);
          tokens += static_cast<int64_t>(ids[i][p].size());
          if (!jobs[begin + i].pieces[p].ends_document) continue;
          writer.end_document();
          ++documents;
        }
      }
      done_ += static_cast<int64_t>(bytes);
      if (progress_) progress_(static_cast<double>(done_) / static_cast<double>(total_));
      begin = end;
    }
    writer.commit();
    return {tokens, documents};
  }

 private:
  std::vector<std::vector<int32_t>> encode(const Job& job) const {
    std::vector<std::vector<int32_t>> out;
    for (const Piece& piece : job.pieces) {
      out.push_back(tokenizer_.encode(piece.text));
      if (piece.ends_document && tokenizer_.document_end() >= 0) {
        out.back().push_back(static_cast<int32_t>(tokenizer_.document_end()));
      }
    }
    return out;
  }

  const Tokenizer& tokenizer_;
  int threads_;
  int64_t total_, done_ = 0;
  const std::function<void(double)>& progress_;
};

void check_utf8(const Text& text) {
  const size_t invalid = utf8::first_invalid(text.map.text());
  if (invalid == std::string_view::npos) return;
  throw DataError(cat(text.path, ", byte ", invalid, ": ",
                      datasets::hex_bytes(std::string(text.map.text().substr(invalid, 4)), 4),
                      " is not UTF-8; convert the file to UTF-8 or use the bytes tokenizer"));
}

std::string distinct_characters(const std::vector<Piece>& pieces) {
  std::vector<bool> seen(0x110000);
  for (const Piece& piece : pieces) {
    for (size_t pos = 0; pos < piece.text.size();) seen[utf8::next(piece.text, pos)] = true;
  }
  std::string out;
  for (char32_t c = 0; c < seen.size(); ++c) {
    if (seen[c]) utf8::append(out, c);
  }
  return out;
}

}  // namespace prepare_detail

PrepareReport prepare_tokens(const PrepareOptions& options,
                             const std::function<void(double)>& progress) {
  using namespace prepare_detail;
  const auto start = std::chrono::steady_clock::now();
  check_options(options);
  const std::vector<std::string> paths = input_files(options);
  std::vector<std::unique_ptr<Text>> texts;
  PrepareReport report;
  for (const std::string& path : paths) {
    texts.push_back(std::make_unique<Text>(path));
    report.text_bytes += static_cast<int64_t>(texts.back()->map.size());
    if (options.tokenizer != "bytes") check_utf8(*texts.back());
  }
  if (!datasets::is_folder(folder_of(options.output))) {
    throw ConfigError("out", cat('"', options.output, '"'), "a file in a folder that exists");
  }
  if (options.train_vocab > 0) {
    const std::string prefix =
        options.tokenizer_model.substr(0, options.tokenizer_model.size() - 6);
    train_sentencepiece(paths, prefix, options.train_vocab, options.model_type, kTrainingThreads);
  }
  std::unique_ptr<Tokenizer> tokenizer;
  const bool new_table = options.tokenizer == "chars" && options.tokenizer_model.empty();
  if (!new_table) tokenizer = make_tokenizer(options.tokenizer, options.tokenizer_model);

  const bool keep_separator = new_table || tokenizer->document_end() < 0;
  std::vector<Piece> pieces;
  for (const auto& text : texts) {
    const std::vector<Piece> more =
        documents_of(text->map.text(), options.document_separator, keep_separator);
    pieces.insert(pieces.end(), more.begin(), more.end());
  }
  if (pieces.empty()) throw DataError(cat(join(paths), ": nothing but document separators"));
  const std::vector<Piece> valid = take_validation(pieces, options.valid_fraction);
  if (options.valid_fraction > 0 && valid.empty()) {
    throw DataError(cat(join(paths), ": ", report.text_bytes,
                        " bytes are too few for a validation part of ",
                        number_text(options.valid_fraction)));
  }
  if (new_table) {
    const std::string table = distinct_characters(pieces);
    tokenizer = make_tokenizer("chars", "", table);
    io::write_text_atomic(options.output + ".chars", table);
  }
  report.vocab_size = tokenizer->vocab_size();
  Encoder encoder(*tokenizer, options.threads, report.text_bytes, progress);
  std::tie(report.tokens, report.documents) = encoder.write(pieces, options.output);
  if (!valid.empty()) report.valid_tokens = encoder.write(valid, options.output + ".valid").first;
  if (progress) progress(1.0);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace strata
