#include "data/token_file.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/text.h"
#include "data/token_formats.h"

namespace strata {
namespace datasets {
namespace token_file_detail {

constexpr int64_t kBlock = 8192;  // ids widened at a time

template <class T>
void widen(const char* bytes, int64_t count, int64_t* out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = static_cast<int64_t>(little_endian<T>(bytes + i * sizeof(T)));
}

class PlainTokenFile final : public TokenFile {
 public:
  PlainTokenFile(InputFile file, PlainLayout layout)
      : file_(std::move(file)), layout_(std::move(layout)) {}
  TokenFormat format() const override { return layout_.format; }
  int64_t size() const override { return layout_.count; }
  int64_t vocab_size() const override { return layout_.vocab_size; }
  const std::vector<int64_t>& document_ends() const override { return layout_.document_ends; }

  void read(int64_t begin, int64_t count, int64_t* out) const override {
    STRATA_CHECK(begin >= 0 && count >= 0 && begin <= size() && count <= size() - begin,
                 cat(file_.path(), ": tokens [", begin, ", ", begin + count, ") of ", size()));
    alignas(8) std::array<char, kBlock * 8> bytes;
    const int width = layout_.width;
    for (int64_t done = 0; done < count;) {
      const int64_t now = std::min(count - done, kBlock);
      file_.read(layout_.offset + (begin + done) * width, now * width, bytes.data());
      convert(bytes.data(), now, out + done);
      done += now;
    }
  }

 private:
  void convert(const char* bytes, int64_t count, int64_t* out) const {
    switch (layout_.width * (layout_.is_signed ? -1 : 1)) {
      case 1:
        return widen<uint8_t>(bytes, count, out);
      case -1:
        return widen<int8_t>(bytes, count, out);
      case 2:
        return widen<uint16_t>(bytes, count, out);
      case -2:
        return widen<int16_t>(bytes, count, out);
      case 4:
        return widen<uint32_t>(bytes, count, out);
      case -4:
        return widen<int32_t>(bytes, count, out);
      default:
        return widen<int64_t>(bytes, count, out);
    }
  }

  InputFile file_;
  PlainLayout layout_;
};

bool has_idx_magic(const std::string& path) {
  if (is_folder(path)) return false;
  try {
    return starts_with(InputFile(path).head(9), std::string_view("MMIDIDX\0\0", 9));
  } catch (const DataError&) {
    return false;
  }
}

std::string megatron_prefix(const std::string& path) {
  if (ends_with(path, ".bin") || ends_with(path, ".idx")) return path.substr(0, path.size() - 4);
  return path;
}

// What the first bytes say when they are no token file; "" when nothing is known.
std::string foreign_kind(const std::string& head) {
  struct Known {
    std::string_view magic;
    const char* advice;
  };
  static const Known known[] = {
      {std::string_view("\x89HDF\r\n", 6), "an HDF5 file; use data.source = hdf5"},
      {std::string_view("\x1f\x8b", 2), "compressed (gzip); unpack it first"},
      {std::string_view("\x28\xb5\x2f\xfd", 4), "compressed (zstd); unpack it first"},
      {std::string_view("\xfd"
                        "7zXZ",
                        5),
       "compressed (xz); unpack it first"},
      {std::string_view("PK\x03\x04", 4), "a zip archive; unpack it first"},
      {std::string_view("PAR1", 4),
       "a Parquet file; export its text column to a text file and use `strata data prepare`"},
      {std::string_view("\x93NUMPY", 6),
       "a NumPy array; write the raw ids instead (array.astype('uint16').tofile)"},
      {std::string_view("\xff\xfe", 2),
       "UTF-16 text; convert it to UTF-8 and use data.source = text"},
      {std::string_view("\xfe\xff", 2),
       "UTF-16 text; convert it to UTF-8 and use data.source = text"},
  };
  for (const Known& kind : known) {
    if (starts_with(head, kind.magic)) return kind.advice;
  }
  return "";
}

}  // namespace token_file_detail

std::unique_ptr<TokenFile> make_plain_file(InputFile file, PlainLayout layout) {
  return std::make_unique<token_file_detail::PlainTokenFile>(std::move(file), std::move(layout));
}

bool is_megatron_pair(const std::string& path) {
  const std::string prefix = token_file_detail::megatron_prefix(path);
  if (prefix == path && file_exists(path)) return false;
  return token_file_detail::has_idx_magic(prefix + ".idx");
}

std::string token_data_path(const std::string& path) {
  return is_megatron_pair(path) ? token_file_detail::megatron_prefix(path) + ".bin" : path;
}

TokenFormat recognise_tokens(const InputFile& file) {
  const std::string head = file.head(4096);
  if (starts_with(head, std::string_view(kStrataTokenMagic, 8))) return TokenFormat::Strata;
  if (head.size() >= 4) {
    const auto magic = little_endian<int32_t>(head.data());
    if (magic == 20240520 || magic == 20240801) return TokenFormat::Llmc;
  }
  const std::string kind = token_file_detail::foreign_kind(head);
  if (!kind.empty()) {
    throw DataError(cat(file.path(), ": not a token file: starts with ", hex_bytes(head, 8),
                        ", which is ", kind));
  }
  if (first_non_text(head) < 0) {
    throw DataError(
        cat(file.path(),
            ": not a token file but text; use data.source = text, or make a token file with "
            "`strata data prepare`"));
  }
  if (!ends_with(file.path(), ".bin")) {
    throw DataError(cat(file.path(), ": not a known token file: starts with ", hex_bytes(head, 8),
                        "; known are strata (\"STRATATK\"), llm.c (20240520 or 20240801), Megatron "
                        "(.bin with .idx) and "
                        "raw uint16 ids in a file named *.bin"));
  }
  return TokenFormat::NanoGpt;
}

}  // namespace datasets

std::unique_ptr<TokenFile> TokenFile::open(const std::string& path, TokenFormat format) {
  if (format == TokenFormat::Megatron ||
      (format == TokenFormat::Auto && datasets::is_megatron_pair(path))) {
    return datasets::open_megatron_tokens(path);
  }
  datasets::InputFile file(path);
  if (format == TokenFormat::Auto) format = datasets::recognise_tokens(file);
  switch (format) {
    case TokenFormat::Strata:
      return datasets::open_strata_tokens(std::move(file));
    case TokenFormat::Llmc:
      return datasets::open_llmc_tokens(std::move(file));
    default:
      return datasets::open_nanogpt_tokens(std::move(file));
  }
}

const char* token_format_name(TokenFormat format) {
  switch (format) {
    case TokenFormat::Strata:
      return "strata";
    case TokenFormat::Llmc:
      return "llm.c";
    case TokenFormat::NanoGpt:
      return "raw uint16";
    case TokenFormat::Megatron:
      return "Megatron";
    default:
      return "auto";
  }
}

}  // namespace strata
