#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/source_kinds.h"
#include "data/tokenizer.h"

namespace strata::datasets {
namespace file_sources_detail {

// Where validation begins: so many tokens before the end, moved back to a document border unless
// that would more than double the part held back.
int64_t token_cut(int64_t tokens, double fraction, const std::vector<int64_t>& document_ends) {
  const auto held_back = static_cast<int64_t>(static_cast<double>(tokens) * fraction);
  const int64_t cut = tokens - held_back;
  const auto after = std::upper_bound(document_ends.begin(), document_ends.end(), cut);
  if (held_back == 0 || after == document_ends.begin()) return cut;
  return cut - *(after - 1) <= held_back ? *(after - 1) : cut;
}

// A split of a stream of ids.
std::unique_ptr<DataSource> make_stream_source(const DataConfig& config, Split split, uint64_t seed,
                                               std::shared_ptr<const TokenStream> stream,
                                               bool whole) {
  if (config.vocab_size == 0 && stream->vocab_size() == 0) {
    throw ConfigError("data.vocab_size", "0", "the vocabulary the data was tokenised with",
                      cat(" (", stream->name(), " does not record it)"));
  }
  if (config.vocab_size > 0 && stream->vocab_size() > config.vocab_size) {
    throw ConfigError("model.vocab_size", cat(config.vocab_size),
                      cat("at least ", stream->vocab_size()),
                      cat(" (vocabulary of ", stream->name(), ")"));
  }
  int64_t default_end = -1;
  if (config.pack_documents) {
    if (const auto tokenizer = make_data_tokenizer(config)) default_end = tokenizer->document_end();
  }
  TokenRange range;
  range.stream = stream;
  range.end = stream->size();
  range.document_ends = packed_document_ends(config, *stream, default_end);
  range.part = cat("the ", split_name(split), " data ", stream->name());
  if (!whole) {
    const auto& ends = range.document_ends.empty() ? stream->document_ends() : range.document_ends;
    const int64_t cut = token_cut(stream->size(), config.valid_fraction, ends);
    (split == Split::Train ? range.end : range.begin) = cut;
    range.part = cat("the ", split_name(split), " part of ", stream->name(),
                     " (data.valid_fraction = ", number_text(config.valid_fraction), ")");
  }
  return make_token_rows(config, split, seed, std::move(range),
                         cat(split_name(split), " data ", stream->name()));
}

std::unique_ptr<DataSource> make_tokens_source(const DataConfig& config, Split split,
                                               uint64_t seed) {
  SplitFiles files = split_files(config, split, {".bin", ".tokens"});
  return make_stream_source(config, split, seed, make_file_stream(std::move(files.paths)),
                            files.whole);
}

std::unique_ptr<DataSource> make_hdf_source(const DataConfig& config, Split split, uint64_t seed) {
  const SplitFiles files = split_files(config, split, {".h5", ".hdf5"});
  if (files.paths.size() > 1) {
    throw ConfigError("data.path", cat('"', config.path, '"'), "one HDF5 file",
                      cat(" (the folder has ", files.paths.size(), " of them)"));
  }
  return make_stream_source(config, split, seed, make_hdf_stream(files.paths[0]), files.whole);
}

}  // namespace file_sources_detail

void register_file_sources(SourceRegistry& registry) {
  registry.add("text", make_text_source);
  registry.add("tokens", file_sources_detail::make_tokens_source);
  registry.add("hdf5", file_sources_detail::make_hdf_source);
}

}  // namespace strata::datasets
