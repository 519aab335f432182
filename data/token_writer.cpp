#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/text.h"
#include "data/token_formats.h"

namespace strata {

struct TokenFileWriter::Impl {
  std::string path, partial;
  io::File file;
  datasets::StrataTokenHeader header;
  std::vector<int64_t> ends;
  std::string buffer;  // bytes not yet written
  int64_t written = datasets::StrataTokenHeader::kBytes;
  uint32_t crc = 0;
  bool committed = false;

  void put(const void* data, size_t bytes) {
    buffer.append(static_cast<const char*>(data), bytes);
    if (buffer.size() >= (size_t{1} << 20)) flush();
  }
  void flush() {
    crc = io::crc32c(buffer.data(), buffer.size(), crc);
    file.write_at(written, buffer.data(), buffer.size());
    written += static_cast<int64_t>(buffer.size());
    buffer.clear();
  }
};

TokenFileWriter::TokenFileWriter(const std::string& path, int64_t vocab_size)
    : impl_(std::make_unique<Impl>()) {
  STRATA_CHECK(vocab_size >= 1 && vocab_size <= (int64_t{1} << 31),
               cat("vocabulary of ", vocab_size));
  impl_->path = path;
  impl_->partial = path + ".tmp";
  impl_->header.vocab_size = static_cast<uint64_t>(vocab_size);
  impl_->header.width = vocab_size <= 65536 ? 2 : 4;
  impl_->file = io::File(impl_->partial, io::File::Mode::Create);
}

TokenFileWriter::~TokenFileWriter() {
  if (impl_->committed) return;
  impl_->file = io::File();
  std::error_code ignored;
  std::filesystem::remove(impl_->partial, ignored);
}

void TokenFileWriter::append(const std::vector<int32_t>& ids) {
  Impl& w = *impl_;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<uint64_t>(ids[i]) >= w.header.vocab_size) {
      throw DataError(cat(w.path, ": token ", w.header.tokens + i, " would be id ", ids[i],
                          ", allowed: 0..", w.header.vocab_size - 1,
                          "; the tokenizer and the vocabulary size do not belong together"));
    }
  }
  if (w.header.width == 2) {
    std::vector<uint16_t> narrow(ids.begin(), ids.end());
    w.put(narrow.data(), narrow.size() * sizeof(uint16_t));
  } else {
    w.put(ids.data(), ids.size() * sizeof(int32_t));
  }
  w.header.tokens += ids.size();
}

void TokenFileWriter::end_document() {
  const auto now = static_cast<int64_t>(impl_->header.tokens);
  if (now > (impl_->ends.empty() ? 0 : impl_->ends.back())) impl_->ends.push_back(now);
}

void TokenFileWriter::commit() {
  Impl& w = *impl_;
  STRATA_CHECK(!w.committed, cat(w.path, " is committed twice"));
  if (w.header.tokens == 0) throw DataError(cat(w.path, ": there are no tokens to write"));
  if (!w.ends.empty()) end_document();  // the last document ends with the file
  w.header.documents = w.ends.size();
  w.put("\0\0\0\0\0\0\0", (8 - w.header.tokens * w.header.width % 8) % 8);
  w.put(w.ends.data(), w.ends.size() * sizeof(int64_t));
  w.flush();
  w.file.write_at(w.written, &w.crc, sizeof(w.crc));
  w.file.write_at(0, w.header.bytes().data(), datasets::StrataTokenHeader::kBytes);
  w.file.sync();
  w.file.close();
  io::rename_path(w.partial, w.path);
  w.committed = true;
  const auto folder = std::filesystem::path(w.path).parent_path();
  io::sync_directory(folder.empty() ? std::filesystem::path(".") : folder);
}

}  // namespace strata
