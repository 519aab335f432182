#include <bit>

#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/source.h"

namespace strata {
namespace order_detail {

constexpr uint32_t kRounds = 6;

}  // namespace order_detail

KeyedPermutation::KeyedPermutation(int64_t n, uint64_t seed, int64_t epoch) : n_(n) {
  STRATA_CHECK(n >= 1 && epoch >= 0, cat("permutation of ", n, " rows, epoch ", epoch));
  const int bits = std::bit_width(static_cast<uint64_t>(n - 1));
  half_bits_ = (bits + 1) / 2;
  const PhiloxKey key = Rng(seed, "data", cat("order/", epoch)).key();
  key_[0] = key[0];
  key_[1] = key[1];
}

int64_t KeyedPermutation::operator()(int64_t index) const {
  STRATA_CHECK(index >= 0 && index < n_, cat("row ", index, " of ", n_));
  if (n_ == 1) return 0;
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = static_cast<uint64_t>(index);
  // The network permutes [0, 4^half_bits_); values outside [0, n) walk on along their cycle until
  // they are inside.
  do {
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint32_t round = 0; round < order_detail::kRounds; ++round) {
      const auto words =
          philox4x32({static_cast<uint32_t>(right), round, 0, 3}, {key_[0], key_[1]});
      const uint64_t mixed = left ^ (words[0] & mask);
      left = right;
      right = mixed;
    }
    value = (left << half_bits_) | right;
  } while (value >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(value);
}

}  // namespace strata
