#include "data/token_formats.h"

#include <algorithm>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/text.h"

namespace strata::datasets {
namespace token_formats_detail {

constexpr const char* kWriteAgain =
    "the file is damaged or was not written to its end; write it again";

int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }

// DataError "<file>: byte <offset>: <what>".
[[noreturn]] void bad(const std::string& path, int64_t offset, const std::string& what) {
  throw DataError(cat(path, ": byte ", offset, ": ", what));
}

// Whole file behind the header, in blocks.
uint32_t body_crc(const InputFile& file, int64_t begin, int64_t end) {
  std::vector<char> block(static_cast<size_t>(std::min<int64_t>(end - begin, int64_t{1} << 20)));
  uint32_t crc = 0;
  for (int64_t at = begin; at < end;) {
    const int64_t now = std::min<int64_t>(static_cast<int64_t>(block.size()), end - at);
    file.read(at, now, block.data());
    crc = io::crc32c(block.data(), static_cast<size_t>(now), crc);
    at += now;
  }
  return crc;
}

template <class T>
std::vector<T> read_array(const InputFile& file, int64_t offset, int64_t count) {
  std::vector<T> out(static_cast<size_t>(count));
  file.read(offset, count * static_cast<int64_t>(sizeof(T)), out.data());
  return out;
}

StrataTokenHeader read_header(const InputFile& file) {
  if (file.size() < StrataTokenHeader::kBytes) {
    throw DataError(cat(file.path(), ": ", file.size(),
                        " bytes, but the header of a strata token file has ",
                        StrataTokenHeader::kBytes, "; ", kWriteAgain));
  }
  const std::string bytes = file.head(StrataTokenHeader::kBytes);
  if (!starts_with(bytes, std::string_view(kStrataTokenMagic, 8))) {
    bad(file.path(), 0,
        cat("starts with ", hex_bytes(bytes, 8), ", a strata token file with \"STRATATK\""));
  }
  const auto version = little_endian<uint32_t>(bytes.data() + 8);
  if (version != StrataTokenHeader::kVersion) {
    bad(file.path(), 8,
        cat("version ", version, ", this program reads version ", StrataTokenHeader::kVersion,
            "; prepare the data again or use a newer program"));
  }
  if (io::crc32c(bytes.data(), 60) != little_endian<uint32_t>(bytes.data() + 60)) {
    bad(file.path(), 60,
        cat("checksum of the header is ", io::crc_text(little_endian<uint32_t>(bytes.data() + 60)),
            ", its contents have ", io::crc_text(io::crc32c(bytes.data(), 60)), "; ", kWriteAgain));
  }
  StrataTokenHeader header;
  header.width = little_endian<uint32_t>(bytes.data() + 12);
  header.tokens = little_endian<uint64_t>(bytes.data() + 16);
  header.vocab_size = little_endian<uint64_t>(bytes.data() + 24);
  header.documents = little_endian<uint64_t>(bytes.data() + 32);
  if (header.width != 2 && header.width != 4)
    bad(file.path(), 12, cat(header.width, " bytes per id, allowed: 2, 4"));
  if (header.vocab_size > (uint64_t{1} << 31)) {
    bad(file.path(), 24,
        cat("vocabulary of ", header.vocab_size, " ids, allowed: at most 2147483648"));
  }
  return header;
}

}  // namespace token_formats_detail

std::string StrataTokenHeader::bytes() const {
  std::string out(kBytes, '\0');
  const auto put = [&](size_t at, auto value) {
    std::memcpy(out.data() + at, &value, sizeof(value));
  };
  std::memcpy(out.data(), kStrataTokenMagic, 8);
  put(8, kVersion);
  put(12, width);
  put(16, tokens);
  put(24, vocab_size);
  put(32, documents);
  put(60, io::crc32c(out.data(), 60));
  return out;
}

void verify_strata_tokens(const InputFile& file) {
  const int64_t end = file.size() - 4;
  const uint32_t found = token_formats_detail::body_crc(file, StrataTokenHeader::kBytes, end);
  const uint32_t stored = token_formats_detail::read_array<uint32_t>(file, end, 1)[0];
  if (found != stored) {
    token_formats_detail::bad(
        file.path(), end,
        cat("checksum of the ids is ", io::crc_text(stored), ", the contents have ",
            io::crc_text(found), "; ", token_formats_detail::kWriteAgain));
  }
}

std::unique_ptr<TokenFile> open_strata_tokens(InputFile file) {
  using namespace token_formats_detail;
  const StrataTokenHeader header = read_header(file);
  const auto size = static_cast<uint64_t>(file.size());
  // Each count is compared with the size first, so that the products below cannot overflow.
  if (header.tokens > size || header.documents > size) {
    bad(file.path(), 16,
        cat(header.tokens, " ids and ", header.documents, " documents cannot be in a file of ",
            size, " bytes; ", kWriteAgain));
  }
  const int64_t ends_at =
      StrataTokenHeader::kBytes + padded(static_cast<int64_t>(header.tokens * header.width));
  const int64_t wanted = ends_at + static_cast<int64_t>(header.documents) * 8 + 4;
  if (wanted != file.size()) {
    throw DataError(cat(file.path(), ": ", file.size(), " bytes, but ", header.tokens, " ids of ",
                        header.width, " bytes and ", header.documents, " documents need ", wanted,
                        "; ", kWriteAgain));
  }
  PlainLayout layout{TokenFormat::Strata,
                     StrataTokenHeader::kBytes,
                     static_cast<int64_t>(header.tokens),
                     static_cast<int>(header.width),
                     false,
                     static_cast<int64_t>(header.vocab_size),
                     read_array<int64_t>(file, ends_at, static_cast<int64_t>(header.documents))};
  int64_t before = 0;
  for (size_t i = 0; i < layout.document_ends.size(); ++i) {
    const int64_t end = layout.document_ends[i];
    if (end <= before || end > layout.count) {
      bad(file.path(), ends_at + static_cast<int64_t>(i) * 8,
          cat("document ", i, " ends at token ", end, ", allowed: more than ", before,
              " and at most ", layout.count, "; ", kWriteAgain));
    }
    before = end;
  }
  if (file.size() < kVerifyOnOpenBytes) verify_strata_tokens(file);
  return make_plain_file(std::move(file), std::move(layout));
}

std::unique_ptr<TokenFile> open_llmc_tokens(InputFile file) {
  using namespace token_formats_detail;
  constexpr int64_t kHeader = 256 * 4;
  if (file.size() < kHeader) {
    throw DataError(cat(file.path(), ": ", file.size(),
                        " bytes, but the header of an llm.c token file has ", kHeader, "; ",
                        kWriteAgain));
  }
  const std::vector<int32_t> header = read_array<int32_t>(file, 0, 3);
  int width = 0;
  if (header[0] == 20240520) {
    if (header[1] != 1)
      bad(file.path(), 4,
          cat("version ", header[1], " of magic 20240520, allowed: 1 (uint16 ids)"));
    width = 2;
  } else if (header[0] == 20240801) {
    if (header[1] != 7)
      bad(file.path(), 4,
          cat("version ", header[1], " of magic 20240801, allowed: 7 (uint32 ids)"));
    width = 4;
  } else {
    bad(file.path(), 0,
        cat("magic ", header[0], " of an llm.c token file, allowed: 20240520, 20240801"));
  }
  if (header[2] <= 0) bad(file.path(), 8, cat(header[2], " tokens, allowed: at least 1"));
  const int64_t wanted = kHeader + int64_t{header[2]} * width;
  if (wanted != file.size()) {
    throw DataError(cat(file.path(), ": ", file.size(), " bytes, but ", header[2], " ids of ",
                        width, " bytes need ", wanted, "; ", kWriteAgain));
  }
  PlainLayout layout{TokenFormat::Llmc, kHeader, header[2], width, false, 0, {}};
  return make_plain_file(std::move(file), std::move(layout));
}

std::unique_ptr<TokenFile> open_nanogpt_tokens(InputFile file) {
  if (file.size() % 2 != 0) {
    throw DataError(cat(file.path(), ": ", file.size(),
                        " bytes, an odd length, but raw ids have 2 bytes each (uint16); the file "
                        "is truncated or holds "
                        "something else"));
  }
  PlainLayout layout{TokenFormat::NanoGpt, 0, file.size() / 2, 2, false, 0, {}};
  return make_plain_file(std::move(file), std::move(layout));
}

}  // namespace strata::datasets
