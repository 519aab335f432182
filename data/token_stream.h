#pragma once
// What rows are cut from: a long sequence of token ids that can be read at any place by several
// threads.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/content_hash.h"
#include "data/input_file.h"
#include "data/token_file.h"

namespace strata::datasets {

class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual int64_t size() const = 0;
  // Thread safe. DataError when the data changed or cannot be read.
  virtual void read(int64_t begin, int64_t count, int64_t* out) const = 0;
  virtual int64_t vocab_size() const = 0;  // 0: not recorded
  // Exclusive ends of documents in increasing order; empty: not recorded.
  virtual const std::vector<int64_t>& document_ends() const = 0;
  // "train.bin, token 17" for messages.
  virtual std::string where(int64_t token) const = 0;
  virtual std::string name() const = 0;
  virtual void add_to(ContentHash& hash) const = 0;  // the contents
};

// Ids in memory, two bytes each when none is above 65535. vocab_size 0: not known.
class MemoryStream final : public TokenStream {
 public:
  MemoryStream(std::string name, int64_t vocab_size, int64_t largest_id);
  void append(const int64_t* ids, int64_t count);
  void append(const std::vector<int32_t>& ids);
  void end_document();

  int64_t size() const override;
  void read(int64_t begin, int64_t count, int64_t* out) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  const std::vector<int64_t>& document_ends() const override { return ends_; }
  std::string where(int64_t token) const override;
  std::string name() const override { return name_; }
  void add_to(ContentHash& hash) const override;

 private:
  std::string name_;
  int64_t vocab_size_;
  bool is_narrow_;
  std::vector<uint16_t> narrow_;
  std::vector<uint32_t> wide_;
  std::vector<int64_t> ends_;
};

// A part of a text file whose bytes are the ids.
struct TextPart {
  std::shared_ptr<const InputFile> file;
  int64_t begin = 0, end = 0;
};

// Bytes of text parts, read in place. With several parts each is a document.
std::unique_ptr<TokenStream> make_byte_stream(std::vector<TextPart> parts);
// Token files one after the other.
std::unique_ptr<TokenStream> make_file_stream(std::vector<std::string> paths);
// Datasets "tokens" and, when there, "document_ends" of an HDF5 file, read whole (HDF5 allows one
// thread at a time).
std::unique_ptr<TokenStream> make_hdf_stream(const std::string& path);

// Position after each id `document_end` in [0, size): document ends of a stream that does not
// record them.
std::vector<int64_t> scan_document_ends(const TokenStream& stream, int64_t document_end);
// Throws DataError naming the place of the first id outside [0, vocab_size). `first` is the place
// of ids[0].
void check_ids(const TokenStream& stream, const int64_t* ids, int64_t count, int64_t first,
               int64_t vocab_size);

}  // namespace strata::datasets
