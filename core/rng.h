#pragma once
// Counter-based random numbers: value = f(seed, domain, name, logical element). A rank can produce
// exactly its part of a logical tensor, so initial weights, dropout masks, data order and samples
// are the same for every layout. LibTorch's generators are never used.
//
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Key of a
// stream:
//   h = splitmix64(seed ^ splitmix64(fnv1a64(domain)) ^ fnv1a64(name)); key = (low 32 bits, high 32
//   bits)
// Domains in use: "init", "dropout", "data", "sample".
#include <array>
#include <cstdint>
#include <string_view>

namespace strata {

uint64_t fnv1a64(std::string_view text);
uint64_t splitmix64(uint64_t x);

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;
PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key);

class Rng {
 public:
  Rng(uint64_t seed, std::string_view domain, std::string_view name);

  PhiloxKey key() const noexcept { return key_; }

  // Uniform 32-bit word of element e: block e/4, lane e%4, counter (block_lo, block_hi, 0, 0).
  uint32_t word(uint64_t element) const;
  // Uniform in (0, 1), from word(e): (w >> 8 + 0.5) / 2^24.
  double uniform(uint64_t element) const;
  // Standard normal by Box-Muller: block e/2, counter (block_lo, block_hi, 1, 0); fp64 inside,
  // rounded once to fp32.
  float normal(uint64_t element) const;
  // Normal cut at +-2 sigma by the inverse cumulative distribution of one uniform.
  float truncated_normal(uint64_t element) const;
  // Word for dropout: counter (block_lo, block_hi, step, 2), keep when word >= floor(prob * 2^32).
  uint32_t dropout_word(uint64_t element, uint32_t step) const;

  // Elements [first, first + count) of the stream: same values as the single calls, blocks
  // evaluated once.
  void fill_normal(uint64_t first, int64_t count, float* out) const;
  void fill_uniform(uint64_t first, int64_t count, double* out) const;
  void fill_dropout_words(uint64_t first, int64_t count, uint32_t step, uint32_t* out) const;

 private:
  PhiloxKey key_;
};

}  // namespace strata
