// Both operands are packed whole into tiles of 16 rows (of op(A), or columns of B) x 32 steps of k,
// 1 KiB each, the parts of a tile side by side. A block of C then runs over k with 2 x 2 tiles of C
// in tile registers. Tiles of A lie row by row; those of B in pairs of k, as the instruction wants
// them, which is the transpose of the same tile in words of 32 bits: each packs the way its memory
// lies and is turned where that is the other one's.
#include "core/ops/tile_product.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "core/error.h"
#include "core/ops/block_gemm.h"
#include "core/ops/cpu_rows.h"
#include "core/text.h"

#if defined(__x86_64__) && defined(__linux__)
// GCC 12's own definitions of the intrinsics begin with a value that is left undefined on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define STRATA_TILES 1
#endif

namespace strata::ops {

#ifdef STRATA_TILES
namespace tile_product_detail {

#define STRATA_TILE_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-bf16")))

constexpr int64_t kSide = 16, kDepth = 32, kTile = kSide * kDepth;  // elements of a tile
constexpr int64_t kBlock = 384;  // rows and columns of C per task
constexpr int64_t kParts = 3;    // of a number: three bfloat16 hold the 24 bits of fp32
// Steps of k (in tiles) for which both panels of a block and C stay in the second-level cache.
constexpr int64_t kSteps = 8;

struct alignas(64) Config {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];  // of a row
  uint8_t rows[16];
};
// In memory of its own: the compiler does not know how much of it the instruction reads.
constexpr Config kEightTiles{.palette = 1,
                             .start = 0,
                             .reserved = {},
                             .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                             .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

// Aligned for tiles; large pages where there are any: new memory is paid for page by page.
using Memory = std::unique_ptr<void, decltype(&std::free)>;
Memory reserve(size_t bytes) {
  constexpr size_t kPage = size_t{1} << 21;
  const size_t unit = bytes >= kPage ? kPage : 64, whole = (bytes + unit - 1) / unit * unit;
  Memory memory(std::aligned_alloc(unit, whole), &std::free);
  if (!memory) throw std::bad_alloc();
  if (unit == kPage) madvise(memory.get(), whole, MADV_HUGEPAGE);
  return memory;
}

int64_t tiles(int64_t n, int64_t side) { return (n + side - 1) / side; }

// A matrix seen as rows (of A, or columns of B) over k.
struct Source {
  const float* data;
  int64_t rows, depth;
  int64_t stride;    // from row to row, or from k to k
  bool depth_dense;  // neighbours in k are neighbours in memory
};

struct Packed {
  int64_t row_tiles = 0, depth_tiles = 0;
  uint16_t* data = nullptr;
  explicit Packed(const Source& s)
      : row_tiles(tiles(s.rows, 2 * kSide) * 2),  // 2 x 2 tiles at a time
        depth_tiles(tiles(s.depth, kDepth)) {}
  // What is read together lies together: kSteps steps of a row of tiles, then of the next row.
  int64_t row_elements() const { return kSteps * kParts * kTile; }
  int64_t elements() const { return tiles(depth_tiles, kSteps) * row_tiles * row_elements(); }
  uint16_t* tile(int64_t row, int64_t step) const {
    const int64_t panel = step / kSteps, within = step % kSteps;
    return data + (panel * row_tiles + row) * row_elements() + within * kParts * kTile;
  }
};

STRATA_TILE_TARGET inline __m256i upper_halves(__m512i x) {
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16));
}

// Sixteen values into three parts, by cutting off: exact.
STRATA_TILE_TARGET inline void split(__m512 x, __m512i out[kParts]) {
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  out[0] = _mm512_and_si512(_mm512_castps_si512(x), mask);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(out[0]));
  out[1] = _mm512_and_si512(_mm512_castps_si512(rest), mask);
  out[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(out[1])));
}

// Rows of 32 steps of k.
STRATA_TILE_TARGET void pack_rows(const float* from, int64_t stride, int64_t rows, int64_t depth,
                                  uint16_t* to) {
  const auto mask_of = [](int64_t n) {
    return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
  };
  const __mmask16 low = mask_of(depth), high = mask_of(depth - 16);
  for (int64_t r = 0; r < rows; ++r) {
    __m512i a[kParts], b[kParts];
    split(_mm512_maskz_loadu_ps(low, from + r * stride), a);
    split(_mm512_maskz_loadu_ps(high, from + r * stride + 16), b);
    for (int p = 0; p < kParts; ++p) {
      const __m512i both =
          _mm512_inserti64x4(_mm512_castsi256_si512(upper_halves(a[p])), upper_halves(b[p]), 1);
      _mm512_store_si512(to + p * kTile + r * kDepth, both);
    }
  }
}

// Pairs of k, side by side for each of 16 columns.
STRATA_TILE_TARGET void pack_pairs(const float* from, int64_t stride, int64_t rows, int64_t depth,
                                   uint16_t* to) {
  const auto mask = static_cast<__mmask16>((1U << rows) - 1);
  for (int64_t k = 0; k < depth; k += 2) {
    __m512i a[kParts], b[kParts];
    split(_mm512_maskz_loadu_ps(mask, from + k * stride), a);
    split(_mm512_maskz_loadu_ps(k + 1 < depth ? mask : __mmask16{0},
                                from + (k + 1 < depth ? k + 1 : k) * stride),
          b);
    for (int p = 0; p < kParts; ++p) {
      const __m512i high = _mm512_and_si512(b[p], _mm512_set1_epi32(static_cast<int>(0xffff0000)));
      _mm512_store_si512(to + p * kTile + k * kSide,
                         _mm512_or_si512(_mm512_srli_epi32(a[p], 16), high));
    }
  }
}

// pairs: tiles are to lie in pairs of k.
void pack(const Source& s, const Packed& out, bool pairs) {
  for_blocks(out.row_tiles, 2, [&](int64_t, int64_t begin, int64_t end) {
    alignas(64) uint16_t turned[kParts * kTile];
    for (int64_t row = begin; row < end; ++row) {
      const int64_t rows = std::clamp<int64_t>(s.rows - row * kSide, 0, kSide);
      for (int64_t step = 0; step < out.depth_tiles; ++step) {
        const int64_t depth = std::min(kDepth, s.depth - step * kDepth);
        uint16_t* to = out.tile(row, step);
        const bool turn = pairs == s.depth_dense;
        uint16_t* first = turn ? turned : to;
        if (rows < kSide || depth < kDepth)
          std::memset(first, 0, static_cast<size_t>(kParts * kTile) * 2);
        if (rows == 0) {
          if (turn) std::memset(to, 0, static_cast<size_t>(kParts * kTile) * 2);
          continue;
        }
        const int64_t at = s.depth_dense ? row * kSide * s.stride + step * kDepth
                                         : step * kDepth * s.stride + row * kSide;
        const float* from = s.data + at;
        (s.depth_dense ? pack_rows : pack_pairs)(from, s.stride, rows, depth, first);
        for (int64_t p = 0; turn && p < kParts; ++p) {
          block::transpose(kSide, kSide, reinterpret_cast<const float*>(turned + p * kTile), kSide,
                           reinterpret_cast<float*>(to + p * kTile), kSide);
        }
      }
    }
  });
}

#define STRATA_FOUR_PRODUCTS() \
  _tile_dpbf16ps(0, 4, 6);     \
  _tile_dpbf16ps(1, 4, 7);     \
  _tile_dpbf16ps(2, 5, 6);     \
  _tile_dpbf16ps(3, 5, 7)

// 2 x 2 tiles of C, `steps` tiles of k. a, b: the first of the upper (left) tiles; a_down, b_down:
// elements to the lower (right) ones. The smallest products come first.
STRATA_TILE_TARGET void run_steps(const uint16_t* a, int64_t a_down, const uint16_t* b,
                                  int64_t b_down, int64_t steps) {
  const auto load_a = [&](int64_t part) STRATA_TILE_TARGET {
    _tile_loadd(4, a + part * kTile, 64);
    _tile_loadd(5, a + a_down + part * kTile, 64);
  };
  const auto load_b = [&](int64_t part) STRATA_TILE_TARGET {
    _tile_loadd(6, b + part * kTile, 64);
    _tile_loadd(7, b + b_down + part * kTile, 64);
  };
  for (int64_t k = 0; k < steps; ++k, a += kParts * kTile, b += kParts * kTile) {
    load_a(0);
    load_b(2);
    STRATA_FOUR_PRODUCTS();
    load_b(1);
    STRATA_FOUR_PRODUCTS();
    load_a(1);
    STRATA_FOUR_PRODUCTS();
    load_b(0);
    STRATA_FOUR_PRODUCTS();
    load_a(2);
    STRATA_FOUR_PRODUCTS();
    load_a(0);
    STRATA_FOUR_PRODUCTS();
  }
}

STRATA_TILE_TARGET void run(const Packed& a, const Packed& b, int64_t row, int64_t column,
                            int64_t step, int64_t steps, float* c) {
  if (step == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c, 64);
    _tile_loadd(1, c + 256, 64);
    _tile_loadd(2, c + 512, 64);
    _tile_loadd(3, c + 768, 64);
  }
  const int64_t a_down = a.row_elements(), b_down = b.row_elements();
  run_steps(a.tile(row, step), a_down, b.tile(column, step), b_down, steps);
  _tile_stored(0, c, 64);
  _tile_stored(1, c + 256, 64);
  _tile_stored(2, c + 512, 64);
  _tile_stored(3, c + 768, 64);
}

STRATA_TILE_TARGET void begin_tiles() { _tile_loadconfig(&kEightTiles); }
STRATA_TILE_TARGET void end_tiles() { _tile_release(); }

struct Result {
  float* to;
  const float* add;
  int64_t to_stride, add_stride, rows, columns;
  float alpha, beta;
};

// alpha c + beta add of a tile, to (row, column).
STRATA_TILE_TARGET void write_tile(const Result& o, const float* c, int64_t row, int64_t column) {
  const int64_t rows = std::min(kSide, o.rows - row), columns = std::min(kSide, o.columns - column);
  if (rows <= 0 || columns <= 0) return;
  const auto mask = static_cast<__mmask16>((1U << columns) - 1);
  const __m512 alpha = _mm512_set1_ps(o.alpha), beta = _mm512_set1_ps(o.beta);
  for (int64_t i = 0; i < rows; ++i) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(c + i * kSide), alpha);
    const int64_t to = (row + i) * o.to_stride + column, add = (row + i) * o.add_stride + column;
    if (o.beta != 0) x = _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(mask, o.add + add), x);
    _mm512_mask_storeu_ps(o.to + to, mask, x);
  }
}

void product(const Packed& a, const Packed& b, const Result& o, bool symmetric) {
  constexpr int64_t kPer = kBlock / kSide;
  const int64_t down = tiles(a.row_tiles, kPer), across = tiles(b.row_tiles, kPer);
  struct Block {
    int64_t row, rows, column, columns;  // in tiles
  };
  std::vector<Block> blocks;
  for (int64_t m = 0; m < down; ++m) {
    for (int64_t n = 0; n < (symmetric ? m + 1 : across); ++n) {
      blocks.push_back({m * kPer, std::min(kPer, a.row_tiles - m * kPer), n * kPer,
                        std::min(kPer, b.row_tiles - n * kPer)});
    }
  }
  const auto work = [&](int64_t task, float* c) {
    const Block own = blocks[static_cast<size_t>(task)];
    const auto for_pairs = [&](auto&& f) {
      for (int64_t column = 0; column < own.columns; column += 2) {
        for (int64_t row = 0; row < own.rows; row += 2) {
          if (symmetric && own.row + row < own.column + column) continue;
          f(own.row + row, own.column + column, c + (column * kPer + 2 * row) * kSide * kSide);
        }
      }
    };
    begin_tiles();
    for (int64_t step = 0; step < a.depth_tiles; step += kSteps) {
      const int64_t steps = std::min(kSteps, a.depth_tiles - step);
      for_pairs(
          [&](int64_t row, int64_t column, float* at) { run(a, b, row, column, step, steps, at); });
    }
    end_tiles();
    alignas(64) float turned[kSide * kSide];
    for_pairs([&](int64_t row, int64_t column, float* at) {
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t r = (row + i / 2) * kSide, k = (column + i % 2) * kSide;
        if (symmetric && r < k) continue;
        float* tile = at + i * kSide * kSide;
        for (int64_t x = 0; symmetric && r == k && x < kSide; ++x) {
          for (int64_t y = 0; y < x; ++y) tile[y * kSide + x] = tile[x * kSide + y];
        }
        write_tile(o, tile, r, k);
        if (!symmetric || r == k) continue;
        block::transpose(kSide, kSide, tile, kSide, turned, kSide);
        write_tile(o, turned, k, r);
      }
    });
  };
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 1, [&](int64_t first, int64_t last) {
    const Memory room = reserve(kBlock * kBlock * sizeof(float));
    for (int64_t task = first; task < last; ++task) work(task, static_cast<float*>(room.get()));
  });
}

Source source_of(const Tensor& x, bool rows_are_rows) {
  const bool dense = x.stride(1) == 1 || x.size(1) <= 1;  // rows of memory
  Source s{x.const_data_ptr<float>(), x.size(rows_are_rows ? 0 : 1), x.size(rows_are_rows ? 1 : 0),
           dense ? x.stride(0) : x.stride(1), rows_are_rows == dense};
  return s;
}

Tensor readable(const Tensor& x) {
  return x.stride(0) == 1 || x.stride(1) == 1 ? x : x.contiguous();
}

bool ask_for_tiles() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("amx-bf16") || !__builtin_cpu_supports("amx-tile") ||
      !__builtin_cpu_supports("avx512bw")) {
    return false;
  }
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl of Linux
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace tile_product_detail
#endif

bool has_tile_product() {
#ifdef STRATA_TILES
  static const bool has = tile_product_detail::ask_for_tiles();
  return has;
#else
  return false;
#endif
}

bool takes_tile_product(const Tensor& a, const Tensor& b) {
  constexpr int64_t kLeast = 64, kWorth = int64_t{128} * 128 * 128;
  const int64_t M = a.size(0), K = a.size(1), N = b.size(1);
  return a.is_cpu() && a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat &&
         std::min({M, N, K}) >= kLeast && M * N * K >= kWorth && has_tile_product();
}

void tile_product_out(const Tensor& to, const Tensor& a_MK, const Tensor& b_KN,
                      const TileProduct& how, const Tensor& add) {
  const int64_t M = a_MK.size(0), N = b_KN.size(1);
  STRATA_CHECK(has_tile_product() && a_MK.size(1) > 0 && a_MK.size(1) == b_KN.size(0) &&
                   to.sizes() == Shape({M, N}) && (to.stride(1) == 1 || N <= 1) &&
                   to.scalar_type() == at::kFloat && a_MK.scalar_type() == at::kFloat &&
                   (!how.symmetric || M == N),
               cat("tile_product: ", shape_text(a_MK.sizes()), " times ", shape_text(b_KN.sizes()),
                   " into ", shape_text(to.sizes())));
  if (M == 0 || N == 0) return;
#ifdef STRATA_TILES
  using namespace tile_product_detail;
  const Tensor a = readable(a_MK), b = readable(b_KN);
  const Source rows = source_of(a, true), columns = source_of(b, false);
  Packed left(rows), right(columns);
  const Memory memory = reserve(static_cast<size_t>(left.elements() + right.elements()) * 2);
  left.data = static_cast<uint16_t*>(memory.get());
  right.data = left.data + left.elements();
  pack(rows, left, false);
  pack(columns, right, true);
  const bool adds = how.beta != 0;
  const Tensor other = adds ? add : to;
  product(left, right,
          {.to = to.mutable_data_ptr<float>(),
           .add = other.const_data_ptr<float>(),
           .to_stride = M <= 1 ? N : to.stride(0),
           .add_stride = M <= 1 ? N : other.stride(0),
           .rows = M,
           .columns = N,
           .alpha = static_cast<float>(how.alpha),
           .beta = static_cast<float>(how.beta)},
          how.symmetric);
#endif
}

}  // namespace strata::ops
