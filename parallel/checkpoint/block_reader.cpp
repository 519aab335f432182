#include "parallel/checkpoint/block_reader.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/text.h"

namespace strata::checkpoint_detail {
namespace block_reader_detail {

std::string damage(const io::File& shard, const Piece& piece, int64_t begin, int64_t bytes) {
  return cat(shard.path().string(), ": tensor ", piece.path, ": bytes [", piece.offset + begin,
             ", ", piece.offset + begin + bytes,
             ") of the file do not match their checksum; the checkpoint is damaged");
}

// The blocks of one piece, one held at a time.
class Blocks {
 public:
  Blocks(const io::File& shard, const Piece& piece, int64_t block)
      : shard_(shard), piece_(piece), block_(block) {}

  int64_t length(int64_t index) const { return std::min(block_, piece_.bytes - index * block_); }

  void load(int64_t index, std::byte* out) const {
    try {
      shard_.read_at(piece_.offset + index * block_, out, static_cast<size_t>(length(index)));
    } catch (const StorageError& error) {
      throw CheckpointError(error.what());
    }
  }
  bool intact(int64_t index, const std::byte* data) const {
    return io::crc32c(data, static_cast<size_t>(length(index))) ==
           piece_.crcs[static_cast<size_t>(index)];
  }
  std::string damage_text(int64_t index) const {
    return damage(shard_, piece_, index * block_, length(index));
  }

  // Copies bytes [begin, begin + count) of the piece to `out`.
  void copy(int64_t begin, int64_t count, std::byte* out) {
    while (count > 0) {
      const int64_t index = begin / block_, inside = begin - index * block_;
      const int64_t part = std::min(count, length(index) - inside);
      if (inside == 0 && part == length(index) && index != held_) {
        // The whole block is wanted here: no second copy.
        load(index, out);
        if (!intact(index, out)) throw CheckpointError(damage_text(index));
      } else {
        hold(index);
        std::memcpy(out, buffer_.data() + inside, static_cast<size_t>(part));
      }
      begin += part;
      out += part;
      count -= part;
    }
  }

 private:
  void hold(int64_t index) {
    if (index == held_) return;
    buffer_.resize(static_cast<size_t>(std::min(block_, piece_.bytes)));
    held_ = -1;
    load(index, buffer_.data());
    if (!intact(index, buffer_.data())) throw CheckpointError(damage_text(index));
    held_ = index;
  }

  const io::File& shard_;
  const Piece& piece_;
  const int64_t block_;
  std::vector<std::byte> buffer_;
  int64_t held_ = -1;
};

}  // namespace block_reader_detail

void read_part(const io::File& shard, const Piece& piece, int64_t block, const Box& part,
               const Box& target, std::byte* out) {
  const auto width = static_cast<int64_t>(c10::elementSize(piece.dtype));
  const size_t axes = part.extent.size();
  // The longest run that is contiguous in the piece and in the target: axes from `outer` on.
  size_t outer = axes;
  int64_t run = width;
  while (outer > 0) {
    --outer;
    run *= part.extent[outer];
    if (part.extent[outer] != piece.box.extent[outer] || part.extent[outer] != target.extent[outer])
      break;
  }
  std::vector<int64_t> from_stride(axes), to_stride(axes);
  int64_t from_step = width, to_step = width;
  for (size_t i = axes; i-- > 0;) {
    from_stride[i] = from_step;
    to_stride[i] = to_step;
    from_step *= piece.box.extent[i];
    to_step *= target.extent[i];
  }
  int64_t from = 0, to = 0;
  for (size_t i = 0; i < axes; ++i) {
    from += (part.offset[i] - piece.box.offset[i]) * from_stride[i];
    to += (part.offset[i] - target.offset[i]) * to_stride[i];
  }
  block_reader_detail::Blocks blocks(shard, piece, block);
  std::vector<int64_t> position(outer, 0);
  for (;;) {
    blocks.copy(from, run, out + to);
    size_t axis = outer;
    for (;;) {
      if (axis == 0) return;
      --axis;
      from += from_stride[axis];
      to += to_stride[axis];
      if (++position[axis] < part.extent[axis]) break;
      from -= position[axis] * from_stride[axis];
      to -= position[axis] * to_stride[axis];
      position[axis] = 0;
    }
  }
}

std::vector<std::string> damaged_blocks(const io::File& shard, const Piece& piece, int64_t block) {
  const block_reader_detail::Blocks blocks(shard, piece, block);
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(block, piece.bytes)));
  std::vector<std::string> out;
  for (int64_t index = 0; index < static_cast<int64_t>(piece.crcs.size()); ++index) {
    try {
      blocks.load(index, buffer.data());
    } catch (const CheckpointError& error) {
      out.push_back(error.what());
      continue;
    }
    if (!blocks.intact(index, buffer.data())) out.push_back(blocks.damage_text(index));
  }
  return out;
}

}  // namespace strata::checkpoint_detail
