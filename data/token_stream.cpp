#include "data/token_stream.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/token_formats.h"

namespace strata::datasets {
namespace token_stream_detail {

constexpr int64_t kBlock = int64_t{1} << 16;  // ids per block of a scan

// Index of the piece that holds `place`; starts[i] is the first place of piece i, starts.back() the
// end.
size_t piece_of(const std::vector<int64_t>& starts, int64_t place) {
  return static_cast<size_t>(std::upper_bound(starts.begin(), starts.end() - 1, place) -
                             starts.begin() - 1);
}

// Calls part(piece, offset in it, count, place in `out`) for each piece that [begin, begin + count)
// touches.
template <class Part>
void for_pieces(const std::vector<int64_t>& starts, int64_t begin, int64_t count,
                const Part& part) {
  STRATA_CHECK(begin >= 0 && count >= 0 && begin + count <= starts.back(),
               cat("tokens [", begin, ", ", begin + count, ") of ", starts.back()));
  int64_t done = 0;
  for (size_t i = count > 0 ? piece_of(starts, begin) : 0; done < count; ++i) {
    const int64_t offset = begin + done - starts[i];
    const int64_t now = std::min(count - done, starts[i + 1] - starts[i] - offset);
    part(i, offset, now, done);
    done += now;
  }
}

class ByteStream final : public TokenStream {
 public:
  explicit ByteStream(std::vector<TextPart> parts) : parts_(std::move(parts)), starts_{0} {
    for (const TextPart& part : parts_) {
      starts_.push_back(starts_.back() + part.end - part.begin);
      if (parts_.size() > 1) ends_.push_back(starts_.back());
    }
  }
  int64_t size() const override { return starts_.back(); }
  void read(int64_t begin, int64_t count, int64_t* out) const override {
    std::vector<unsigned char> bytes(static_cast<size_t>(std::min(count, kBlock)));
    for_pieces(starts_, begin, count, [&](size_t i, int64_t offset, int64_t now, int64_t place) {
      for (int64_t done = 0; done < now;) {
        const int64_t step = std::min(now - done, kBlock);
        parts_[i].file->read(parts_[i].begin + offset + done, step, bytes.data());
        std::copy_n(bytes.data(), step, out + place + done);
        done += step;
      }
    });
  }
  int64_t vocab_size() const override { return 256; }
  const std::vector<int64_t>& document_ends() const override { return ends_; }
  std::string where(int64_t token) const override {
    const size_t i = piece_of(starts_, token);
    return cat(parts_[i].file->path(), ", byte ", parts_[i].begin + token - starts_[i]);
  }
  std::string name() const override {
    return parts_.size() == 1 ? parts_[0].file->path() : cat(parts_.size(), " text files");
  }
  void add_to(ContentHash& hash) const override {
    for (const TextPart& part : parts_) {
      hash.add(*part.file)
          .add(static_cast<uint64_t>(part.begin))
          .add(static_cast<uint64_t>(part.end));
    }
  }

 private:
  std::vector<TextPart> parts_;
  std::vector<int64_t> starts_, ends_;
};

class FileStream final : public TokenStream {
 public:
  explicit FileStream(std::vector<std::string> paths) : paths_(std::move(paths)), starts_{0} {
    bool documents = true;
    for (const std::string& path : paths_) {
      files_.push_back(TokenFile::open(path));
      const TokenFile& file = *files_.back();
      for (int64_t end : file.document_ends()) ends_.push_back(starts_.back() + end);
      starts_.push_back(starts_.back() + file.size());
      documents = documents && !file.document_ends().empty();
      // A file ends its last document.
      if (documents && ends_.back() != starts_.back()) ends_.push_back(starts_.back());
      vocab_size_ = std::max(vocab_size_, file.vocab_size());
    }
    if (!documents) ends_.clear();
  }
  int64_t size() const override { return starts_.back(); }
  void read(int64_t begin, int64_t count, int64_t* out) const override {
    for_pieces(starts_, begin, count, [&](size_t i, int64_t offset, int64_t now, int64_t place) {
      files_[i]->read(offset, now, out + place);
    });
  }
  int64_t vocab_size() const override { return vocab_size_; }
  const std::vector<int64_t>& document_ends() const override { return ends_; }
  std::string where(int64_t token) const override {
    const size_t i = piece_of(starts_, token);
    return cat(paths_[i], ", token ", token - starts_[i]);
  }
  std::string name() const override {
    return paths_.size() == 1 ? cat(paths_[0], " (", token_format_name(files_[0]->format()), ")")
                              : cat(paths_.size(), " token files");
  }
  void add_to(ContentHash& hash) const override {
    for (size_t i = 0; i < paths_.size(); ++i) {
      hash.add(static_cast<uint64_t>(files_[i]->size()));
      hash.add(InputFile(token_data_path(paths_[i])));
    }
    for (int64_t end : ends_) hash.add(static_cast<uint64_t>(end));
  }

 private:
  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<TokenFile>> files_;
  std::vector<int64_t> starts_, ends_;
  int64_t vocab_size_ = 0;
};

}  // namespace token_stream_detail

MemoryStream::MemoryStream(std::string name, int64_t vocab_size, int64_t largest_id)
    : name_(std::move(name)), vocab_size_(vocab_size), is_narrow_(largest_id <= 65535) {}

void MemoryStream::append(const int64_t* ids, int64_t count) {
  if (is_narrow_) {
    narrow_.insert(narrow_.end(), ids, ids + count);
  } else {
    wide_.insert(wide_.end(), ids, ids + count);
  }
}

void MemoryStream::append(const std::vector<int32_t>& ids) {
  if (is_narrow_) {
    narrow_.insert(narrow_.end(), ids.begin(), ids.end());
  } else {
    wide_.insert(wide_.end(), ids.begin(), ids.end());
  }
}

void MemoryStream::end_document() {
  if (size() > (ends_.empty() ? 0 : ends_.back())) ends_.push_back(size());
}

int64_t MemoryStream::size() const { return static_cast<int64_t>(narrow_.size() + wide_.size()); }

void MemoryStream::read(int64_t begin, int64_t count, int64_t* out) const {
  STRATA_CHECK(begin >= 0 && count >= 0 && begin + count <= size(),
               cat("tokens [", begin, ", ", begin + count, ") of ", size()));
  if (is_narrow_) {
    std::copy_n(narrow_.data() + begin, count, out);
  } else {
    std::copy_n(wide_.data() + begin, count, out);
  }
}

std::string MemoryStream::where(int64_t token) const { return cat(name_, ", token ", token); }

void MemoryStream::add_to(ContentHash& hash) const {
  hash.add(std::string_view(reinterpret_cast<const char*>(narrow_.data()),
                            narrow_.size() * sizeof(uint16_t)));
  hash.add(std::string_view(reinterpret_cast<const char*>(wide_.data()),
                            wide_.size() * sizeof(uint32_t)));
  for (int64_t end : ends_) hash.add(static_cast<uint64_t>(end));
}

std::unique_ptr<TokenStream> make_byte_stream(std::vector<TextPart> parts) {
  return std::make_unique<token_stream_detail::ByteStream>(std::move(parts));
}

std::unique_ptr<TokenStream> make_file_stream(std::vector<std::string> paths) {
  return std::make_unique<token_stream_detail::FileStream>(std::move(paths));
}

std::vector<int64_t> scan_document_ends(const TokenStream& stream, int64_t document_end) {
  std::vector<int64_t> ends,
      block(static_cast<size_t>(std::min(stream.size(), token_stream_detail::kBlock)));
  for (int64_t begin = 0; begin < stream.size();) {
    const int64_t count =
        std::min<int64_t>(static_cast<int64_t>(block.size()), stream.size() - begin);
    stream.read(begin, count, block.data());
    for (int64_t i = 0; i < count; ++i) {
      if (block[static_cast<size_t>(i)] == document_end) ends.push_back(begin + i + 1);
    }
    begin += count;
  }
  return ends;
}

void check_ids(const TokenStream& stream, const int64_t* ids, int64_t count, int64_t first,
               int64_t vocab_size) {
  const auto limit = static_cast<uint64_t>(vocab_size);
  uint64_t largest = 0;  // negative ids count as very large
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, static_cast<uint64_t>(ids[i]));
  if (count == 0 || largest < limit) return;
  for (int64_t i = 0; i < count; ++i) {
    if (static_cast<uint64_t>(ids[i]) < limit) continue;
    throw DataError(cat(stream.where(first + i), ": id ", ids[i], " does not fit a vocabulary of ",
                        vocab_size, " (ids 0..", vocab_size - 1,
                        "). Set the model's vocab_size to what the data was tokenised with, or "
                        "prepare the data again"));
  }
}

}  // namespace strata::datasets
