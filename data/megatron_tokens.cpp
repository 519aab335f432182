// <prefix>.idx, little-endian: "MMIDIDX\0\0", version 1 (uint64), element code (uint8), number of
// sequences S (uint64), number of document marks D (uint64), S lengths (int32), S byte positions in
// <prefix>.bin (int64), D document marks (int64): the first sequence of each document, then S.
// Files with sequence modes have S more bytes, which change nothing here. <prefix>.bin: the
// elements alone.
#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/token_formats.h"

namespace strata::datasets {
namespace megatron_tokens_detail {

constexpr int64_t kHeader = 34;
constexpr int64_t kBlock = int64_t{1} << 16;

[[noreturn]] void bad(const std::string& path, int64_t offset, const std::string& what) {
  throw DataError(cat(path, ": byte ", offset, ": ", what));
}

struct Element {
  int width;
  bool is_signed;
};

Element element_of(const std::string& path, int code) {
  switch (code) {
    case 1:
      return {1, false};
    case 2:
      return {1, true};
    case 3:
      return {2, true};
    case 4:
      return {4, true};
    case 5:
      return {8, true};
    case 8:
      return {2, false};
    default:
      bad(path, 17,
          cat("element code ", code,
              ", allowed: 1 (uint8), 2 (int8), 3 (int16), 4 (int32), 5 (int64), 8 "
              "(uint16); token ids are integers"));
  }
}

// Calls each(index, value) for `count` numbers at `offset`.
template <class T, class Each>
void for_numbers(const InputFile& file, int64_t offset, int64_t count, const Each& each) {
  std::vector<T> block(static_cast<size_t>(std::min(count, kBlock)));
  for (int64_t done = 0; done < count;) {
    const int64_t now = std::min(count - done, kBlock);
    file.read(offset + done * static_cast<int64_t>(sizeof(T)),
              now * static_cast<int64_t>(sizeof(T)), block.data());
    for (int64_t i = 0; i < now; ++i) each(done + i, block[static_cast<size_t>(i)]);
    done += now;
  }
}

}  // namespace megatron_tokens_detail

std::unique_ptr<TokenFile> open_megatron_tokens(const std::string& path) {
  using namespace megatron_tokens_detail;
  std::string prefix = path;
  if (ends_with(path, ".bin") || ends_with(path, ".idx")) prefix.resize(path.size() - 4);
  const InputFile index(prefix + ".idx");
  const std::string& name = index.path();
  const std::string head = index.head(kHeader);
  if (!starts_with(head, std::string_view("MMIDIDX\0\0", 9))) {
    bad(name, 0,
        cat("starts with ", hex_bytes(head, 9),
            ", the index of a Megatron data set with \"MMIDIDX\""));
  }
  if (static_cast<int64_t>(head.size()) < kHeader) {
    throw DataError(cat(name, ": ", head.size(), " bytes, but the header of a Megatron index has ",
                        kHeader, "; copy the file again"));
  }
  const auto version = little_endian<uint64_t>(head.data() + 9);
  if (version != 1) bad(name, 9, cat("version ", version, ", allowed: 1"));
  const Element element = element_of(name, static_cast<unsigned char>(head[17]));
  const auto sequences = little_endian<uint64_t>(head.data() + 18);
  const auto marks = little_endian<uint64_t>(head.data() + 26);
  const auto size = static_cast<uint64_t>(index.size());
  if (sequences == 0 || sequences > size)
    bad(name, 18, cat(sequences, " sequences in an index of ", size, " bytes"));
  if (marks > size) bad(name, 26, cat(marks, " document marks in an index of ", size, " bytes"));
  const auto S = static_cast<int64_t>(sequences), D = static_cast<int64_t>(marks);
  const int64_t lengths_at = kHeader, positions_at = lengths_at + S * 4,
                marks_at = positions_at + S * 8;
  const int64_t wanted = marks_at + D * 8;
  if (index.size() != wanted && index.size() != wanted + S) {
    throw DataError(cat(name, ": ", size, " bytes, but ", S, " sequences and ", D,
                        " document marks need ", wanted, " (", wanted + S,
                        " with sequence modes); copy the file again"));
  }

  // Exclusive end of each sequence in tokens; they must lie one after the other, as the writers put
  // them.
  std::vector<int64_t> sequence_ends(sequences);
  int64_t tokens = 0;
  for_numbers<int32_t>(index, lengths_at, S, [&](int64_t i, int32_t length) {
    if (length < 0) bad(name, lengths_at + i * 4, cat("sequence ", i, " has ", length, " tokens"));
    tokens += length;
    sequence_ends[static_cast<size_t>(i)] = tokens;
  });
  for_numbers<int64_t>(index, positions_at, S, [&](int64_t i, int64_t position) {
    const int64_t expected =
        (i == 0 ? 0 : sequence_ends[static_cast<size_t>(i - 1)]) * element.width;
    if (position != expected) {
      bad(name, positions_at + i * 8,
          cat("sequence ", i, " starts at byte ", position, " of the .bin file, expected ",
              expected, " (right after sequence ", i - 1, ")"));
    }
  });
  InputFile data(prefix + ".bin");
  if (data.size() != tokens * element.width) {
    throw DataError(cat(data.path(), ": ", data.size(), " bytes, but ", name, " lists ", tokens,
                        " tokens of ", element.width, " bytes = ", tokens * element.width,
                        "; the two files do not belong together or one is truncated"));
  }
  PlainLayout layout{TokenFormat::Megatron, 0, tokens, element.width, element.is_signed, 0, {}};
  int64_t before = 0;
  for_numbers<int64_t>(index, marks_at, D, [&](int64_t i, int64_t mark) {
    if (mark < before || mark > S || (i == 0 && mark != 0) || (i + 1 == D && mark != S)) {
      bad(name, marks_at + i * 8,
          cat("document mark ", i, " is ", mark, ", allowed: from ", before, " to ", S,
              ", the first 0 and the last ", S));
    }
    before = mark;
    const int64_t end = mark == 0 ? 0 : sequence_ends[static_cast<size_t>(mark - 1)];
    auto& ends = layout.document_ends;
    if (end > (ends.empty() ? 0 : ends.back())) ends.push_back(end);
  });
  return make_plain_file(std::move(data), std::move(layout));
}

}  // namespace strata::datasets
