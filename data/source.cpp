#include "data/source.h"

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/text.h"
#include "data/source_kinds.h"
#include "data/tokenizer.h"

namespace strata {
namespace source_detail {

datasets::SourceRegistry sources() {
  datasets::SourceRegistry registry("data.source");
  datasets::register_file_sources(registry);
  datasets::register_synthetic_sources(registry);
  return registry;
}

bool reads_files(const std::string& source) {
  return source == "text" || source == "tokens" || source == "hdf5";
}

}  // namespace source_detail

void DataConfig::visit(ConfigVisitor& v) {
  v.field("source", source, one_of(data_source_names()),
          "text, tokens and hdf5 read data.path; the others are synthetic tasks that need no data");
  v.field("path", path, path_text(),
          "data file, or folder of files (text: *.txt; tokens: *.bin, *.tokens)");
  v.field("valid_path", valid_path, path_text(), "validation data; empty: the end of data.path");
  v.field("valid_fraction", valid_fraction, fraction_below_one(),
          "part of data.path, at its end, kept for validation when data.valid_path is empty");
  v.field("tokenizer", tokenizer, one_of({"bytes", "chars", "sentencepiece"}),
          "how text becomes ids");
  v.field(
      "tokenizer_model", tokenizer_model, path_text(),
      "SentencePiece model; for chars a text with every character (default: the training text)");
  v.field("sequence_length", sequence_length, between(1, int64_t{1} << 30), "tokens per row");
  v.field("seed", seed, at_least(-1), "order of the rows; -1: train.seed");
  v.field("shuffle", shuffle,
          "training rows in a new order each epoch; false: in the order of the data");
  v.field("pack_documents", pack_documents,
          "attention, states and positions start anew at each document");
  v.field("document_end", document_end, at_least(-1),
          "id that ends a document; -1: as the data records or the tokenizer says");
  v.field("vocab_size", vocab_size, between(0, int64_t{1} << 31),
          "ids allowed in the data; 0: those of the model");
  v.field("rows", rows, at_least(1), "synthetic tasks: rows that count as one epoch");
  v.field("pairs", pairs, at_least(0),
          "recall: key-value pairs per row; 0: a quarter of data.sequence_length");
  v.field("letters", letters, one_of({"all", "generators"}),
          "parity, s3, a5, s5: what words are made of: all elements of the group, or the identity, "
          "two generators and their inverses");
  v.field("mask_fraction", mask_fraction, fraction_below_one(),
          "bidirectional models: part of the tokens hidden and to be guessed; 0: predict the next "
          "token");
  v.field("mask_token", mask_token, at_least(-1),
          "id that hides a token; -1: the last of the vocabulary");
  if (source == "text" && tokenizer == "sentencepiece" && tokenizer_model.empty()) {
    v.problem("tokenizer_model", "nothing", "a SentencePiece model file",
              " (data.tokenizer = sentencepiece)");
  }
}

std::vector<std::string> data_source_names() { return source_detail::sources().names(); }

std::unique_ptr<DataSource> make_data_source(const DataConfig& config, Split split, uint64_t seed) {
  if (config.sequence_length < 1)
    throw ConfigError("data.sequence_length", cat(config.sequence_length), "at least 1");
  if (config.vocab_size < 0)
    throw ConfigError("data.vocab_size", cat(config.vocab_size), "at least 0");
  if (!(config.valid_fraction >= 0 && config.valid_fraction < 1)) {
    throw ConfigError("data.valid_fraction", number_text(config.valid_fraction),
                      "number in [0, 1)");
  }
  if (config.rows < 1) throw ConfigError("data.rows", cat(config.rows), "at least 1");
  if (!(config.mask_fraction >= 0 && config.mask_fraction < 1)) {
    throw ConfigError("data.mask_fraction", number_text(config.mask_fraction), "number in [0, 1)");
  }
  std::unique_ptr<DataSource> source =
      source_detail::sources().make(config.source, config, split, seed);
  if (config.mask_fraction > 0 && !source_detail::reads_files(config.source)) {
    throw ConfigError("data.mask_fraction", number_text(config.mask_fraction), "0",
                      cat(" (data.source = ", config.source, " has labels of its own)"));
  }
  if (config.mask_fraction > 0)
    source = datasets::make_masked_source(config, split, seed, std::move(source));
  return source;
}

std::unique_ptr<Tokenizer> make_data_tokenizer(const DataConfig& config) {
  if (config.source == "text") return datasets::text_tokenizer(config);
  if (!source_detail::reads_files(config.source) || config.tokenizer_model.empty()) return nullptr;
  return make_tokenizer(config.tokenizer, config.tokenizer_model);
}

}  // namespace strata
