#pragma once
// Reads parts of a piece from its shard, checking the CRC of every block it touches and touching no
// other. Private to this folder.
#include <cstddef>
#include <string>
#include <vector>

#include "core/io/file.h"
#include "parallel/checkpoint/format.h"

namespace strata::checkpoint_detail {

// Copies `part` (global coordinates, inside the piece's box) to its place in `out`, a C-order array
// holding `target` (global coordinates, containing `part`). Throws CheckpointError naming file,
// tensor and byte range of a damaged block.
void read_part(const io::File& shard, const Piece& piece, int64_t block, const Box& part,
               const Box& target, std::byte* out);

// One sentence per damaged block of the piece.
std::vector<std::string> damaged_blocks(const io::File& shard, const Piece& piece, int64_t block);

}  // namespace strata::checkpoint_detail
