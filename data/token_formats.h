#pragma once
// One function per format: checks header and sizes of an opened file, then gives its ids. Numbers
// are little-endian.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "data/input_file.h"
#include "data/token_file.h"

namespace strata::datasets {

// Ids stored one after the other from a byte offset on.
struct PlainLayout {
  TokenFormat format = TokenFormat::NanoGpt;
  int64_t offset = 0, count = 0;
  int width = 2;  // 1, 2, 4 or 8 bytes
  bool is_signed = false;
  int64_t vocab_size = 0;
  std::vector<int64_t> document_ends;
};
std::unique_ptr<TokenFile> make_plain_file(InputFile file, PlainLayout layout);

std::unique_ptr<TokenFile> open_strata_tokens(InputFile file);
std::unique_ptr<TokenFile> open_llmc_tokens(InputFile file);
std::unique_ptr<TokenFile> open_nanogpt_tokens(InputFile file);
std::unique_ptr<TokenFile> open_megatron_tokens(const std::string& path);

// Format of an opened file by its first bytes and name; DataError saying what it looks like when it
// is none.
TokenFormat recognise_tokens(const InputFile& file);
// Whether `path` is <prefix>, <prefix>.bin or <prefix>.idx of a Megatron pair.
bool is_megatron_pair(const std::string& path);
// The file with the ids: `path` itself but for a Megatron pair.
std::string token_data_path(const std::string& path);

template <class T>
T little_endian(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// Header of our format, 64 bytes: magic, version, bytes per id, ids, vocabulary, documents, zeros,
// CRC32C of the 60 bytes before. Then the ids, zeros up to a multiple of 8, document ends (uint64),
// CRC32C of all after the header.
struct StrataTokenHeader {
  static constexpr int64_t kBytes = 64;
  static constexpr uint32_t kVersion = 1;
  uint32_t width = 2;
  uint64_t tokens = 0, vocab_size = 0, documents = 0;

  std::string bytes() const;
};
inline constexpr char kStrataTokenMagic[] = "STRATATK";
// Compares the CRC32C at the end with the contents; DataError when they differ.
void verify_strata_tokens(const InputFile& file);
// Files below this size are verified when they are opened.
inline constexpr int64_t kVerifyOnOpenBytes = int64_t{256} << 20;

}  // namespace strata::datasets
