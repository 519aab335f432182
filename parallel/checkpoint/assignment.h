#pragma once
// Which rank writes what. Every rank calls assign() with the same offers and gets the same answer.
// Pure; private to this folder.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "parallel/nn/shard.h"

namespace strata::checkpoint_detail {

struct Offer {
  std::string path;
  at::ScalarType dtype = at::kFloat;
  Shape global;
  Box box;
};
std::string encode_offers(const std::vector<Offer>& offers);
std::vector<Offer> decode_offers(std::string_view bytes);  // throws InternalError

// A box to write: offer `offer` of rank `rank`, rows [begin, end) of its axis 0 (the whole box
// where it has no axis).
struct Task {
  int rank = 0;
  size_t offer = 0;
  Box box;  // in global coordinates
  int64_t bytes = 0;
};

struct Assignment {
  std::vector<std::vector<Task>> tasks;  // per rank, ordered by path and box
  std::vector<int64_t> bytes;            // per rank
};

// Boxes offered by several ranks go to the least loaded of them, largest first; boxes above
// max_piece bytes are cut along axis 0; where the result is uneven, replicated boxes are cut finer.
// Throws InternalError when ranks disagree on a tensor or boxes do not tile it.
Assignment assign(const std::vector<std::vector<Offer>>& offers,
                  int64_t max_piece = int64_t{2} << 30);

}  // namespace strata::checkpoint_detail
