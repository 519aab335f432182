#include "core/ops/dropout_cpu.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::dropout_cpu {

namespace dropout_cpu_detail {

constexpr int64_t kChunk = 2048;         // elements whose words are held at a time
constexpr int64_t kRoom = kChunk + 128;  // and those of incomplete registers around them

// Philox 4x32-10 for consecutive counters, one per 64-bit lane; four words per counter in element
// order.
template <int Bytes>
[[gnu::always_inline]] inline void words_of_blocks(uint64_t block, int64_t blocks, uint32_t step,
                                                   PhiloxKey key, uint32_t* out) {
  using V = typename simd::VectorOf<uint64_t, Bytes / 8>::type;
  constexpr int N = Bytes / 8;
  constexpr uint64_t kLow = 0xffffffffu;
  uint64_t ascending[N];
  for (int i = 0; i < N; ++i) {
    ascending[i] = block + static_cast<uint64_t>(i);
  }
  const V start = simd::load<V>(ascending);
  for (int64_t done = 0; done < blocks; done += N) {
    const V counter = start + static_cast<uint64_t>(done);
    V c0 = counter & kLow, c1 = counter >> 32;
    V c2 = V{} + static_cast<uint64_t>(step), c3 = V{} + uint64_t{2};
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
      const V p0 = c0 * uint64_t{0xD2511F53u}, p1 = c2 * uint64_t{0xCD9E8D57u};
      c0 = (p1 >> 32) ^ c1 ^ static_cast<uint64_t>(k0);
      c1 = p1 & kLow;
      c2 = (p0 >> 32) ^ c3 ^ static_cast<uint64_t>(k1);
      c3 = p0 & kLow;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const V low = c0 | (c1 << 32), high = c2 | (c3 << 32);
    uint64_t lows[N], highs[N];
    simd::store(lows, low);
    simd::store(highs, high);
    for (int i = 0; i < N; ++i) {
      __builtin_memcpy(out + 4 * (done + i), &lows[i], 8);
      __builtin_memcpy(out + 4 * (done + i) + 2, &highs[i], 8);
    }
  }
}

template <class S>
struct Span {
  const S* x = nullptr;  // null: factors instead of products
  S* y = nullptr;
  uint64_t first = 0;
  int64_t count = 0;
  uint32_t step = 0, threshold = 0;
  PhiloxKey key{};
  double kept = 1;
  uint32_t* words = nullptr;  // kRoom
};

template <class A>
struct Drop {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S>& span) {
    using V = simd::Vec<A, Bytes>;
    using Word = typename simd::VectorOf<uint32_t, simd::kLanes<V>>::type;
    using Mask = typename simd::VectorOf<std::conditional_t<sizeof(A) == 8, int64_t, int32_t>,
                                         simd::kLanes<V>>::type;
    using Wide = typename simd::VectorOf<std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>,
                                         simd::kLanes<V>>::type;
    const A kept = static_cast<A>(span.kept);
    const Wide threshold = Wide{} + span.threshold;
    for (int64_t done = 0; done < span.count; done += kChunk) {
      const int64_t n = std::min(kChunk, span.count - done);
      const uint64_t first = span.first + static_cast<uint64_t>(done);
      const auto skip = static_cast<int64_t>(first % 4);
      words_of_blocks<Bytes>(first / 4, (skip + n + 3) / 4, span.step, span.key, span.words);
      const uint32_t* words = span.words + skip;
      simd::sweep<V>(
          n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            Word word;
            __builtin_memcpy(&word, words + i,
                             sizeof(word));  // words beyond the row's end are there, in span.words
            const Mask keep = __builtin_convertvector(word, Wide) >= threshold;
            const V value = span.x != nullptr
                                ? static_cast<V>(simd::load<V>(span.x + done + i, lanes) * kept)
                                : simd::broadcast<V>(kept);
            simd::store(span.y + done + i, static_cast<V>(keep ? value : V{}), lanes);
          });
    }
  }
};

}  // namespace dropout_cpu_detail

uint32_t threshold(double prob) { return static_cast<uint32_t>(std::floor(prob * 4294967296.0)); }

template <class S>
void keep_factors(const Rng& rng, uint64_t first, int64_t count, uint32_t step, double prob,
                  S* out) {
  using namespace dropout_cpu_detail;
  for_blocks(count, kBlockElements, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<uint32_t> words(kRoom);
    Span<S> span;
    span.y = out + begin;
    span.first = first + static_cast<uint64_t>(begin);
    span.count = end - begin;
    span.step = step;
    span.threshold = threshold(prob);
    span.key = rng.key();
    span.kept = 1.0 / (1.0 - prob);
    span.words = words.data();
    simd::run<Drop<S>>(span);
  });
}
template void keep_factors<float>(const Rng&, uint64_t, int64_t, uint32_t, double, float*);
template void keep_factors<double>(const Rng&, uint64_t, int64_t, uint32_t, double, double*);

Tensor apply(const Tensor& x_BTF, double prob, const DropoutKey& key) {
  using namespace dropout_cpu_detail;
  const Tensor x = x_BTF.contiguous();
  const int64_t T = x.size(1), F = x.size(2);
  const int64_t width = key.width == 0 ? F : key.width;
  const int64_t length = key.length == 0 ? T : key.length;
  const Rng rng(key.seed, "dropout", key.name);
  Tensor y = at::empty(x.sizes(), x.options());
  // Where x has whole rows of the whole width its elements are one run of numbers, else a run per
  // token.
  const bool whole = width == F && length == T;
  const int64_t runs = F == 0 ? 0 : whole ? x.numel() : x.size(0) * T;
  with_types(x, [&]<class S, class A>(S, A) {
    for_blocks(runs, whole ? kBlockElements : rows_per_block(F),
               [&](int64_t, int64_t begin, int64_t end) {
                 std::vector<uint32_t> words(kRoom);
                 Span<S> span;
                 span.step = key.step;
                 span.threshold = threshold(prob);
                 span.key = rng.key();
                 span.kept = 1.0 / (1.0 - prob);
                 span.words = words.data();
                 span.count = whole ? end - begin : F;
                 const int64_t step = whole ? end - begin : 1;
                 for (int64_t run = begin; run < end; run += step) {
                   const int64_t at = whole ? run : run * F;
                   const int64_t row = key.first_row + at / (T * F), token = at / F % T;
                   const int64_t element = (row * length + key.first_token + token) * width +
                                           key.first_feature + (whole ? at % F : 0);
                   span.first = static_cast<uint64_t>(element);
                   span.x = x.const_data_ptr<S>() + at;
                   span.y = y.mutable_data_ptr<S>() + at;
                   simd::run<Drop<A>>(span);
                 }
               });
  });
  return y;
}

}  // namespace strata::ops::dropout_cpu
