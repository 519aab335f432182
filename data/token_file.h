#pragma once
// A long sequence of token ids on disk, read in place, never loaded whole.
//
//   strata     "STRATATK", version, id width, counts, ids, document ends, CRC32C (token_formats.h)
//   llm.c      256 int32 header (magic 20240520, version 1: uint16; magic 20240801, version 7:
//              uint32), ids
//   nanoGPT    raw uint16 (.bin without header)
//   Megatron   <prefix>.idx + <prefix>.bin (MMIDIDX version 1); either name or the prefix opens it
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace strata {

enum class TokenFormat { Auto, Strata, Llmc, NanoGpt, Megatron };

class TokenFile {
 public:
  // Recognises the format by its content unless given. Throws DataError naming file, offset and
  // value.
  static std::unique_ptr<TokenFile> open(const std::string& path,
                                         TokenFormat format = TokenFormat::Auto);
  virtual ~TokenFile() = default;
  virtual TokenFormat format() const = 0;
  virtual int64_t size() const = 0;                                         // tokens
  virtual void read(int64_t begin, int64_t count, int64_t* out) const = 0;  // thread safe
  virtual int64_t vocab_size() const = 0;                                   // 0: not recorded
  // Exclusive ends of documents in increasing order; empty: not recorded.
  virtual const std::vector<int64_t>& document_ends() const = 0;
};
const char* token_format_name(TokenFormat format);

// Writes our format, two bytes per id for vocabularies up to 65536. The file appears whole, at
// commit(); without commit() nothing is left. StorageError when it cannot be written.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::string& path, int64_t vocab_size);
  ~TokenFileWriter();
  void append(const std::vector<int32_t>& ids);  // DataError for ids outside the vocabulary
  void end_document();                           // without any, documents are not recorded
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
