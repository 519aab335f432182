#include "core/rng.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace strata {
namespace rng_detail {

constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

constexpr uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
constexpr uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

inline void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0,
                         uint32_t k1) {
  const uint64_t p0 = uint64_t{kMultiplier0} * c0;
  const uint64_t p1 = uint64_t{kMultiplier1} * c2;
  c0 = high(p1) ^ c1 ^ k0;
  c1 = low(p1);
  c2 = high(p0) ^ c3 ^ k1;
  c3 = low(p0);
}

inline double unit(uint32_t word) {
  return (static_cast<double>(static_cast<int32_t>(word >> 8)) + 0.5) * 0x1p-24;
}

// Natural logarithm of a normal positive number to about one unit in the last place. Written out,
// like sin and cos below, so that a weight does not depend on the C library of the machine that
// draws it, and so that the loop over a chunk of blocks has no calls in it.
inline double log_positive(double x) {
  // x = 2^exponent * m with m in [1/sqrt(2), sqrt(2)); log m = 2 atanh s, s = (m - 1) / (m + 1),
  // |s| < 0.172.
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCDu;
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const uint64_t shifted = bits - kSqrtHalf;
  constexpr uint64_t kBias = 1024;
  const auto exponent =
      static_cast<int32_t>((shifted + (kBias << 52)) >> 52) - static_cast<int32_t>(kBias);
  const double m = std::bit_cast<double>((shifted & 0x000FFFFFFFFFFFFFu) + kSqrtHalf);
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double tail = 1.0 / 25;
  tail = tail * z + 1.0 / 23;
  tail = tail * z + 1.0 / 21;
  tail = tail * z + 1.0 / 19;
  tail = tail * z + 1.0 / 17;
  tail = tail * z + 1.0 / 15;
  tail = tail * z + 1.0 / 13;
  tail = tail * z + 1.0 / 11;
  tail = tail * z + 1.0 / 9;
  tail = tail * z + 1.0 / 7;
  tail = tail * z + 1.0 / 5;
  tail = tail * z + 1.0 / 3;
  return exponent * 0.693147180559945309417 + 2.0 * (s + s * (z * tail));
}

// cos and sin of 2 pi u, u in [0, 1]: quarter turns are removed exactly, the rest is a Taylor
// series on |x| <= pi/4.
inline void cos_sin_turn(double u, double& cosine, double& sine) {
  const auto quarter = static_cast<int32_t>(u * 4.0 + 0.5);
  const double x = (u - quarter * 0.25) * 6.28318530717958647693;
  const double z = x * x;
  double s = 1.0 / 355687428096000.0;  // 17!
  s = s * z - 1.0 / 1307674368000.0;
  s = s * z + 1.0 / 6227020800.0;
  s = s * z - 1.0 / 39916800.0;
  s = s * z + 1.0 / 362880.0;
  s = s * z - 1.0 / 5040.0;
  s = s * z + 1.0 / 120.0;
  s = s * z - 1.0 / 6.0;
  s = x + x * (z * s);
  double c = 1.0 / 20922789888000.0;  // 16!
  c = c * z - 1.0 / 87178291200.0;
  c = c * z + 1.0 / 479001600.0;
  c = c * z - 1.0 / 3628800.0;
  c = c * z + 1.0 / 40320.0;
  c = c * z - 1.0 / 720.0;
  c = c * z + 1.0 / 24.0;
  c = c * z - 0.5;
  c = 1.0 + z * c;
  const double a = (quarter & 1) ? s : c;
  const double b = (quarter & 1) ? c : s;
  cosine = ((quarter + 1) & 2) ? -a : a;
  sine = (quarter & 2) ? -b : b;
}

// The two normals of a block.
inline void box_muller(uint32_t word0, uint32_t word1, float& even, float& odd) {
  const double radius = std::sqrt(-2.0 * log_positive(unit(word0)));
  double cosine, sine;
  cos_sin_turn(unit(word1), cosine, sine);
  even = static_cast<float>(radius * cosine);
  odd = static_cast<float>(radius * sine);
}

// Blocks are evaluated a chunk at a time, in loops of fixed length over arrays, which compilers
// turn into vector code. 16 are enough for that, and few enough that short calls waste little.
constexpr int kChunk = 16;

struct Chunk {
  uint32_t w0[kChunk], w1[kChunk], w2[kChunk], w3[kChunk];

  void evaluate(uint64_t first_block, uint32_t c2, uint32_t c3, PhiloxKey key) {
    for (int i = 0; i < kChunk; ++i) {
      const uint64_t block = first_block + static_cast<uint64_t>(i);
      w0[i] = low(block);
      w1[i] = high(block);
      w2[i] = c2;
      w3[i] = c3;
    }
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kChunk; ++i) philox_round(w0[i], w1[i], w2[i], w3[i], key[0], key[1]);
      key[0] += kWeyl0;
      key[1] += kWeyl1;
    }
  }
};

// Calls put(index into out, word) for elements [first, first + count), four to a block.
template <class Put>
void for_each_word(PhiloxKey key, uint64_t first, int64_t count, uint32_t c2, uint32_t c3,
                   Put put) {
  if (count <= 0) return;
  const uint64_t end = first + static_cast<uint64_t>(count);
  Chunk chunk;
  for (uint64_t block = first / 4; block * 4 < end; block += kChunk) {
    chunk.evaluate(block, c2, c3, key);
    const uint64_t begin = std::max(first, block * 4);
    const uint64_t stop = std::min(end, (block + kChunk) * 4);
    for (uint64_t e = begin; e < stop; ++e) {
      const uint64_t i = e / 4 - block;
      const uint32_t words[4] = {chunk.w0[i], chunk.w1[i], chunk.w2[i], chunk.w3[i]};
      put(static_cast<int64_t>(e - first), words[e % 4]);
    }
  }
}

double normal_cdf(double z) { return 0.5 * std::erfc(-z * 0.70710678118654752440); }

}  // namespace rng_detail

uint64_t fnv1a64(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001B3u;
  }
  return hash;
}

uint64_t splitmix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

PhiloxCounter philox4x32(PhiloxCounter c, PhiloxKey key) {
  for (int round = 0; round < rng_detail::kRounds; ++round) {
    rng_detail::philox_round(c[0], c[1], c[2], c[3], key[0], key[1]);
    key[0] += rng_detail::kWeyl0;
    key[1] += rng_detail::kWeyl1;
  }
  return c;
}

Rng::Rng(uint64_t seed, std::string_view domain, std::string_view name) {
  const uint64_t h = splitmix64(seed ^ splitmix64(fnv1a64(domain)) ^ fnv1a64(name));
  key_ = {rng_detail::low(h), rng_detail::high(h)};
}

uint32_t Rng::word(uint64_t element) const {
  const uint64_t block = element / 4;
  return philox4x32({rng_detail::low(block), rng_detail::high(block), 0, 0}, key_)[element % 4];
}

double Rng::uniform(uint64_t element) const { return rng_detail::unit(word(element)); }

float Rng::normal(uint64_t element) const {
  const uint64_t block = element / 2;
  const PhiloxCounter words =
      philox4x32({rng_detail::low(block), rng_detail::high(block), 1, 0}, key_);
  float even, odd;
  rng_detail::box_muller(words[0], words[1], even, odd);
  return element % 2 == 0 ? even : odd;
}

float Rng::truncated_normal(uint64_t element) const {
  constexpr double kCut = 2.0;
  const double below = rng_detail::normal_cdf(-kCut);
  // By symmetry one half is enough; there p stays away from 0 and the iteration from cancellation.
  const double u = uniform(element);
  const double p = below + (u < 0.5 ? u : 1.0 - u) * (1.0 - 2.0 * below);
  // Halley's iteration for cdf(z) = p from the logistic approximation, which is within 0.1: the
  // error is cubed in each step.
  double z = std::log(p / (1.0 - p)) / 1.702;
  for (int step = 0; step < 4; ++step) {
    const double density = std::exp(-0.5 * z * z) * 0.39894228040143267794;
    const double newton = (rng_detail::normal_cdf(z) - p) / density;
    z -= newton / (1.0 + 0.5 * z * newton);
  }
  z = std::clamp(z, -kCut, 0.0);
  return static_cast<float>(u < 0.5 ? z : -z);
}

uint32_t Rng::dropout_word(uint64_t element, uint32_t step) const {
  const uint64_t block = element / 4;
  return philox4x32({rng_detail::low(block), rng_detail::high(block), step, 2}, key_)[element % 4];
}

void Rng::fill_normal(uint64_t first, int64_t count, float* out) const {
  using rng_detail::kChunk;
  if (count <= 0) return;
  const uint64_t end = first + static_cast<uint64_t>(count);
  rng_detail::Chunk chunk;
  float pairs[2 * kChunk];
  for (uint64_t block = first / 2; block * 2 < end; block += kChunk) {
    chunk.evaluate(block, 1, 0, key_);
    for (int i = 0; i < kChunk; ++i) {
      rng_detail::box_muller(chunk.w0[i], chunk.w1[i], pairs[2 * i], pairs[2 * i + 1]);
    }
    const uint64_t begin = std::max(first, block * 2);
    const uint64_t stop = std::min(end, (block + kChunk) * 2);
    std::copy(pairs + (begin - block * 2), pairs + (stop - block * 2), out + (begin - first));
  }
}

void Rng::fill_uniform(uint64_t first, int64_t count, double* out) const {
  rng_detail::for_each_word(key_, first, count, 0, 0,
                            [out](int64_t i, uint32_t word) { out[i] = rng_detail::unit(word); });
}

void Rng::fill_dropout_words(uint64_t first, int64_t count, uint32_t step, uint32_t* out) const {
  rng_detail::for_each_word(key_, first, count, step, 2,
                            [out](int64_t i, uint32_t word) { out[i] = word; });
}

}  // namespace strata
