#pragma once
// The sources behind data.source. Each returns what make_data_source promises, before masking.
#include <memory>
#include <string>
#include <vector>

#include "data/source.h"
#include "data/token_stream.h"

namespace strata::datasets {

using SourceRegistry = Registry<DataSource, const DataConfig&, Split, uint64_t>;
void register_file_sources(SourceRegistry& registry);       // text, tokens, hdf5
void register_synthetic_sources(SourceRegistry& registry);  // copy, recall, parity, s3, a5, s5

// Fixed windows of T tokens of a stream: row i = tokens [i * T, i * T + T], inputs without the
// last, labels without the first; what is left at the end is dropped. With data.pack_documents the
// documents inside a row are separate segments.
struct TokenRange {
  std::shared_ptr<const TokenStream> stream;
  int64_t begin = 0, end = 0;
  std::string part;                    // "the training part of input.txt" for messages
  std::vector<int64_t> document_ends;  // of the stream, exclusive; used with data.pack_documents
};
std::unique_ptr<DataSource> make_token_rows(const DataConfig& config, Split split, uint64_t seed,
                                            TokenRange range, const std::string& description);

// Hides data.mask_fraction of the tokens of `source`; labels are the hidden tokens at their own
// places.
std::unique_ptr<DataSource> make_masked_source(const DataConfig& config, Split split, uint64_t seed,
                                               std::unique_ptr<DataSource> source);

std::unique_ptr<DataSource> make_text_source(const DataConfig& config, Split split, uint64_t seed);
// The text that a split of a text source consists of.
struct TextSplit {
  std::vector<TextPart> parts;
  std::string part;  // as TokenRange::part
};
TextSplit split_text(const DataConfig& config, Split split);
// The tokenizer of a text source; reads the training text for a table of characters.
std::unique_ptr<Tokenizer> text_tokenizer(const DataConfig& config);
// The text of a part; DataError for bytes that are not UTF-8.
std::string read_utf8(const TextPart& part);

// Files of data.path or data.valid_path for a split. In a folder with file names that contain
// "train", those are the training data and those with "val" the validation data; in other folders
// all files are.
struct SplitFiles {
  std::vector<std::string> paths;
  bool whole = false;  // nothing is held back for, or belongs to, the other split
};
SplitFiles split_files(const DataConfig& config, Split split,
                       const std::vector<std::string>& endings);

// Where documents end, for data.pack_documents: at data.document_end, else as the stream records,
// else at `default_end` (-1: unknown). ConfigError when that gives none; empty when documents are
// not packed.
std::vector<int64_t> packed_document_ends(const DataConfig& config, const TokenStream& stream,
                                          int64_t default_end);
const char* split_name(Split split);         // "training" | "validation"
std::string with_thousands(int64_t number);  // "1,003,854"

}  // namespace strata::datasets
