#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/encode.h"
#include "data/source_kinds.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

namespace strata::datasets {
namespace text_source_detail {

// The border between training and validation text moves back to the end of a line that is at most
// this far away.
constexpr int64_t kLineSearch = int64_t{64} << 10;

// Where validation begins in the concatenation of `parts`, `total` bytes long, near `cut`.
int64_t nice_cut(const std::vector<TextPart>& parts, int64_t total, int64_t cut) {
  int64_t start = 0;
  for (const TextPart& part : parts) {
    const int64_t size = part.end - part.begin;
    if (cut >= start + size) {
      start += size;
      continue;
    }
    const int64_t offset = cut - start;
    const int64_t window = std::min({offset, kLineSearch, (total - cut) / 2});
    std::string text(static_cast<size_t>(window), '\0');
    part.file->read(part.begin + offset - window, window, text.data());
    const size_t line = text.rfind('\n');
    if (line != std::string::npos) return cut - (window - static_cast<int64_t>(line) - 1);
    // No line ends nearby: between two code points.
    std::string tail(static_cast<size_t>(std::min<int64_t>(4, size - offset)), '\0');
    part.file->read(part.begin + offset, static_cast<int64_t>(tail.size()), tail.data());
    return cut + static_cast<int64_t>(utf8::boundary_after(tail, 0));
  }
  return cut;
}

// Bytes [begin, end) of the concatenation of `parts`.
std::vector<TextPart> cut_parts(const std::vector<TextPart>& parts, int64_t begin, int64_t end) {
  std::vector<TextPart> out;
  int64_t start = 0;
  for (const TextPart& part : parts) {
    const int64_t size = part.end - part.begin;
    const int64_t from = std::max(begin - start, int64_t{0}), to = std::min(end - start, size);
    if (from < to) out.push_back({part.file, part.begin + from, part.begin + to});
    start += size;
  }
  return out;
}

std::string text_name(const DataConfig& config, Split split) {
  return split == Split::Valid && !config.valid_path.empty() ? config.valid_path : config.path;
}

void check_vocabulary(const DataConfig& config, const Tokenizer& tokenizer) {
  // Byte ids are checked as they are read: plain ASCII fits a model of 128 ids.
  if (config.vocab_size == 0 || tokenizer.name() == "bytes" ||
      config.vocab_size >= tokenizer.vocab_size())
    return;
  throw ConfigError("model.vocab_size", cat(config.vocab_size),
                    cat("at least ", tokenizer.vocab_size()),
                    cat(" (ids of data.tokenizer = ", tokenizer.name(), ")"));
}

std::unique_ptr<DataSource> make_text_source(const DataConfig& config, Split split, uint64_t seed) {
  TextSplit text = split_text(config, split);
  const std::unique_ptr<Tokenizer> tokenizer = text_tokenizer(config);
  check_vocabulary(config, *tokenizer);
  const std::string name = text_name(config, split);
  TokenRange range;
  range.part = text.part;
  if (tokenizer->name() == "bytes") {
    range.stream = make_byte_stream(std::move(text.parts));
  } else {
    auto stream =
        std::make_unique<MemoryStream>(cat(name, " (", tokenizer->name(), " ids)"),
                                       tokenizer->vocab_size(), tokenizer->vocab_size() - 1);
    const int64_t end_id = tokenizer->document_end();
    for (const TextPart& part : text.parts) {
      stream->append(encode_parallel(*tokenizer, read_utf8(part), 0));
      if (end_id >= 0 && part.end == part.file->size())
        stream->append(&end_id, 1);  // a file is a document
      if (text.parts.size() > 1) stream->end_document();
    }
    range.stream = std::move(stream);
  }
  range.end = range.stream->size();
  range.document_ends = packed_document_ends(config, *range.stream, -1);
  return make_token_rows(config, split, seed, std::move(range),
                         cat(split_name(split), " text ", name, " (", tokenizer->name(), ")"));
}

}  // namespace text_source_detail

TextSplit split_text(const DataConfig& config, Split split) {
  const SplitFiles files = split_files(config, split, {".txt"});
  std::vector<TextPart> parts;
  int64_t total = 0;
  for (const std::string& path : files.paths) {
    auto file = std::make_shared<InputFile>(path);
    total += file->size();
    parts.push_back({file, 0, file->size()});
  }
  TextSplit out;
  out.part = cat("the ", split_name(split), " text ", text_source_detail::text_name(config, split));
  if (files.whole) {
    out.parts = std::move(parts);
    return out;
  }
  const auto held_back = static_cast<int64_t>(static_cast<double>(total) * config.valid_fraction);
  int64_t cut = total;
  if (held_back > 0) cut = text_source_detail::nice_cut(parts, total, total - held_back);
  out.parts = split == Split::Train ? text_source_detail::cut_parts(parts, 0, cut)
                                    : text_source_detail::cut_parts(parts, cut, total);
  out.part = cat("the ", split_name(split), " part of ", config.path,
                 " (data.valid_fraction = ", number_text(config.valid_fraction), ")");
  if (out.parts.empty()) {
    throw DataError(cat(out.part, " is empty: the text has ", total,
                        " bytes. Use more text, raise data.valid_fraction or set data.valid_path"));
  }
  return out;
}

std::string read_utf8(const TextPart& part) {
  std::string text(static_cast<size_t>(part.end - part.begin), '\0');
  part.file->read(part.begin, static_cast<int64_t>(text.size()), text.data());
  const size_t invalid = utf8::first_invalid(text);
  if (invalid != std::string::npos) {
    throw DataError(cat(part.file->path(), ", byte ", part.begin + static_cast<int64_t>(invalid),
                        ": ", hex_bytes(text.substr(invalid, 4), 4),
                        " is not UTF-8; convert the file to UTF-8 or use data.tokenizer = bytes"));
  }
  return text;
}

std::unique_ptr<Tokenizer> text_tokenizer(const DataConfig& config) {
  if (config.tokenizer != "chars" || !config.tokenizer_model.empty()) {
    return make_tokenizer(config.tokenizer, config.tokenizer_model);
  }
  std::string corpus;
  for (const TextPart& part : split_text(config, Split::Train).parts) corpus += read_utf8(part);
  return make_tokenizer("chars", "", corpus);
}

SplitFiles split_files(const DataConfig& config, Split split,
                       const std::vector<std::string>& endings) {
  if (config.path.empty()) {
    throw ConfigError("data.path", "nothing", "a file or folder",
                      cat(" (data.source = ", config.source, " reads one)"));
  }
  const bool own = split == Split::Valid && !config.valid_path.empty();
  const std::string& path = own ? config.valid_path : config.path;
  const auto chosen = [&](std::vector<std::string> paths, bool whole) -> SplitFiles {
    whole = whole || !config.valid_path.empty();
    if (!whole && split == Split::Valid && config.valid_fraction == 0) {
      throw ConfigError("data.valid_fraction", "0", "more than 0, or data.valid_path set",
                        " (there is no validation data)");
    }
    return {std::move(paths), whole};
  };
  if (!is_folder(path)) return chosen({path}, false);
  const std::vector<std::string> all = files_in(path, endings);
  if (all.empty()) {
    throw DataError(cat(path, ": the folder has no files named *", join(endings, ", *"),
                        "; give a file, or a folder of such files"));
  }
  std::vector<std::string> train, valid;
  for (const std::string& file : all) {
    const std::string name = file.substr(file.rfind('/') + 1);
    if (name.find("train") != std::string::npos) {
      train.push_back(file);
    } else if (name.find("val") != std::string::npos) {
      valid.push_back(file);
    }
  }
  if (own) return chosen(train.empty() || valid.empty() ? all : valid, true);
  if (train.empty()) return chosen(all, false);
  if (valid.empty()) return chosen(train, false);
  return chosen(split == Split::Train ? train : valid, true);
}

std::unique_ptr<DataSource> make_text_source(const DataConfig& config, Split split, uint64_t seed) {
  return text_source_detail::make_text_source(config, split, seed);
}

}  // namespace strata::datasets
