#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/input_file.h"
#include "data/prepare.h"
#include "data/source_kinds.h"
#include "data/token_formats.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

namespace strata {
namespace inspect_detail {

using datasets::InputFile;
using datasets::TokenStream;
using datasets::with_thousands;

constexpr int64_t kBlock = int64_t{1} << 16;

// Text on one line: line ends and other control characters written as escapes.
std::string visible(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += cat("\\x", datasets::hex_bytes(std::string(1, c), 1));
    } else {
      out += c;
    }
  }
  return out;
}

std::string line(const std::string& name, const std::string& value) {
  return cat(name, ':', std::string(name.size() < 14 ? 14 - name.size() : 1, ' '), value, '\n');
}

std::string documents_line(const std::vector<int64_t>& ends) {
  if (ends.empty()) return line("documents", "not recorded");
  int64_t before = 0, shortest = ends[0], longest = 0;
  for (int64_t end : ends) {
    shortest = std::min(shortest, end - before);
    longest = std::max(longest, end - before);
    before = end;
  }
  return line("documents",
              cat(with_thousands(static_cast<int64_t>(ends.size())), " of ",
                  with_thousands(shortest), " to ", with_thousands(longest), " tokens, ",
                  ends.back() / static_cast<int64_t>(ends.size()), " on average"));
}

std::string first_tokens(const TokenStream& stream, const Tokenizer* tokenizer) {
  std::vector<int64_t> ids(static_cast<size_t>(std::min<int64_t>(stream.size(), 32)));
  stream.read(0, static_cast<int64_t>(ids.size()), ids.data());
  std::vector<std::string> shown;
  for (int64_t id : ids) shown.push_back(std::to_string(id));
  std::string out = line("first tokens", cat(join(shown, " "), stream.size() > 32 ? " ..." : ""));
  if (tokenizer == nullptr) return out;
  std::vector<int32_t> narrow;
  for (int64_t id : ids)
    narrow.push_back(id >= 0 && id < tokenizer->vocab_size() ? static_cast<int32_t>(id) : -1);
  return out + line("decoded", visible(tokenizer->decode(narrow)));
}

std::string token_lines(const TokenStream& stream, const Tokenizer* tokenizer) {
  int64_t smallest = INT64_MAX, largest = INT64_MIN, largest_at = 0;
  std::vector<int64_t> block(static_cast<size_t>(std::min(kBlock, stream.size())));
  for (int64_t begin = 0; begin < stream.size();) {
    const int64_t count =
        std::min<int64_t>(static_cast<int64_t>(block.size()), stream.size() - begin);
    stream.read(begin, count, block.data());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = block[static_cast<size_t>(i)];
      smallest = std::min(smallest, id);
      if (id > largest) {
        largest = id;
        largest_at = begin + i;
      }
    }
    begin += count;
  }
  const int64_t vocab = stream.vocab_size();
  std::string range = cat(smallest, " to ", largest);
  const bool outside = smallest < 0 || (vocab > 0 && largest >= vocab);
  if (outside) range += cat("  PROBLEM: outside the vocabulary, see token ", largest_at);
  return line("tokens", with_thousands(stream.size())) +
         line("vocabulary",
              vocab > 0 ? with_thousands(vocab) : cat("not recorded, at least ", largest + 1)) +
         line("ids", range) + documents_line(stream.document_ends()) +
         first_tokens(stream, tokenizer);
}

std::string text_lines(const InputFile& file) {
  std::string text;
  int64_t lines = 0, invalid = -1;
  std::vector<bool> seen(0x110000);
  // Blocks end where a code point starts, so that none is cut.
  for (int64_t begin = 0; begin < file.size();) {
    std::string block(static_cast<size_t>(std::min<int64_t>(int64_t{1} << 20, file.size() - begin)),
                      '\0');
    file.read(begin, static_cast<int64_t>(block.size()), block.data());
    lines += std::count(block.begin(), block.end(), '\n');
    size_t pos = 0;
    while (pos < block.size()) {
      const size_t here = pos;
      const char32_t c = utf8::next(block, pos);
      if (c != utf8::kInvalid) {
        seen[c] = true;
      } else if (begin + static_cast<int64_t>(block.size()) < file.size() && here > 0 &&
                 utf8::is_cut_off(std::string_view(block).substr(here))) {
        pos = here;  // cut by the end of the block
        break;
      } else if (invalid < 0) {
        invalid = begin + static_cast<int64_t>(here);
      }
    }
    if (begin == 0) text = block.substr(0, 64);
    begin += static_cast<int64_t>(pos);
    lines -= std::count(block.begin() + static_cast<std::ptrdiff_t>(pos), block.end(), '\n');
  }
  if (utf8::first_invalid(text) != std::string::npos) text.resize(utf8::first_invalid(text));
  return line("lines", with_thousands(lines)) +
         line("encoding", invalid < 0 ? "UTF-8"
                                      : cat("not UTF-8: byte ", invalid,
                                            "; only data.tokenizer = bytes reads it")) +
         line("characters",
              cat(with_thousands(std::count(seen.begin(), seen.end(), true)), " different")) +
         line("begins", visible(text));
}

}  // namespace inspect_detail

std::string inspect_data(const std::string& path, const std::string& tokenizer,
                         const std::string& tokenizer_model) {
  using namespace inspect_detail;
  std::unique_ptr<Tokenizer> words;
  if (!tokenizer.empty()) words = make_tokenizer(tokenizer, tokenizer_model);
  if (!datasets::is_megatron_pair(path)) {
    const InputFile file(path);
    const std::string head = file.head(4096);
    const std::string size = line("file", cat(path, ", ", with_thousands(file.size()), " bytes"));
    if (starts_with(head, std::string_view("\x89HDF\r\n\x1a\n", 8))) {
      return size + line("format", "HDF5 token set") +
             token_lines(*datasets::make_hdf_stream(path), words.get());
    }
    if (!starts_with(head, datasets::kStrataTokenMagic) &&
        !datasets::has_control_characters(head)) {
      return size + line("format", "text") + text_lines(file);
    }
  }
  const std::unique_ptr<TokenStream> stream = datasets::make_file_stream({path});
  const InputFile data(datasets::token_data_path(path));
  const TokenFormat format = TokenFile::open(path)->format();
  if (format == TokenFormat::Strata) datasets::verify_strata_tokens(data);
  return line("file", cat(data.path(), ", ", with_thousands(data.size()), " bytes")) +
         line("format", cat(token_format_name(format),
                            format == TokenFormat::Strata ? ", checksums agree" : "")) +
         token_lines(*stream, words.get());
}

}  // namespace strata
