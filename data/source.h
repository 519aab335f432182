#pragma once
// Rows of token ids as a pure function of (seed, data set, global sample number): same arguments,
// same rows, on every rank and in every layout. A source knows no communicator and no step:
// changing dp or the number of micro-batches moves nothing but who reads what.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/batch.h"
#include "core/registry.h"

namespace strata {

class ConfigVisitor;
class Tokenizer;

class DataSource {
 public:
  virtual ~DataSource() = default;
  // Samples [begin, end), counted since the start of the run; epoch = number / rows_per_epoch(),
  // each epoch in its own keyed order. Labels are the next tokens, kIgnoreLabel where there is
  // none. Thread safe.
  virtual Batch rows(int64_t begin, int64_t end) const = 0;
  virtual int64_t rows_per_epoch() const = 0;
  virtual int64_t row_length() const = 0;  // tokens per row (T)
  virtual int64_t vocab_size() const = 0;
  // 16 hexadecimal digits over the data and everything that changes rows; stored in checkpoints.
  virtual std::string fingerprint() const = 0;
  virtual std::string description() const = 0;  // one line for the log
};

struct DataConfig {
  std::string source = "text";      // text | tokens | hdf5 | synthetic sources by name
  std::string path;                 // file or folder
  std::string valid_path;           // own validation data; empty: a part of `path`
  double valid_fraction = 0.02;     // of the tokens at the end of `path`, when valid_path is empty
  std::string tokenizer = "bytes";  // bytes | chars | sentencepiece
  std::string tokenizer_model;      // SentencePiece model file; characters file of chars
  int64_t sequence_length = 256;    // T
  int64_t seed = -1;                // order; -1: train.seed
  bool shuffle = true;
  bool pack_documents = false;  // attention does not cross document borders
  int64_t document_end = -1;    // token id that ends a document; -1: the tokenizer's, if any
  int64_t vocab_size = 0;  // of the model, 0: the tokenizer's; ids are checked against it on load
  int64_t rows = 65536;    // synthetic sources: rows that count as one epoch
  int64_t pairs = 0;       // recall: key-value pairs per row, 0: as many as fit, at most T / 4
  std::string letters = "all";  // words of groups: all elements, or generators only
  double mask_fraction = 0;  // > 0: bidirectional models; this part of the tokens is to be guessed
  int64_t mask_token = -1;   // id that hides a token, -1: the last of the vocabulary

  void visit(ConfigVisitor& v);  // section [data]
};

enum class Split { Train, Valid };

// Throws DataError (file, offset, value, what to do) for missing, truncated or impossible data;
// ConfigError for contradictory settings. seed: data.seed resolved. Split::Valid is in order
// whatever data.shuffle says, so that runs with different seeds are validated on the same rows.
std::unique_ptr<DataSource> make_data_source(const DataConfig& config, Split split, uint64_t seed);
// Values of data.source, sorted.
std::vector<std::string> data_source_names();
// The tokenizer that the ids of this data came from, nullptr when it is not known (synthetic
// sources; token files with data.tokenizer_model unset). For a text source it is the one
// make_data_source uses.
std::unique_ptr<Tokenizer> make_data_tokenizer(const DataConfig& config);

// A bijection of [0, n) keyed by (seed, epoch): Feistel network over ceil(log2 n) bits with cycle
// walking, round function Philox, domain "data".
class KeyedPermutation {
 public:
  KeyedPermutation(int64_t n, uint64_t seed, int64_t epoch);
  int64_t operator()(int64_t index) const;

 private:
  int64_t n_;
  int half_bits_;
  uint32_t key_[2];
};

}  // namespace strata
