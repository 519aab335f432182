#pragma once
// How the kernels of gla_cpu.h go through a text. Private to gla_cpu*.cpp.
//
// A task walks some key/value heads of one row, each with the query heads that share it. The heads
// take turns every kTurn chunks, so that memory pages, which hold all heads of a few tokens, stay
// at hand until the last head has read them; at the beginning of a turn the states are kept for the
// backward.
#include <ATen/Parallel.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/error.h"
#include "core/ops/block_gemm.h"
#include "core/ops/gla_chunk.h"
#include "core/ops/gla_cpu.h"

namespace strata::ops::gla_cpu {

using namespace gla_chunk;

inline constexpr int64_t kTurn = 8;

// Products of small decays would become subnormal numbers, on which arithmetic is slow: zeros.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  FlushSubnormals() {}
  ~FlushSubnormals() {}
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;
};

// Working memory of one thread, cut into zeroed arrays.
template <class A>
class Arena {
 public:
  explicit Arena(int64_t elements)
      : size_(static_cast<size_t>(elements) + 4096),
        memory_(static_cast<A*>(::operator new (size_ * sizeof(A), std::align_val_t{64}))) {
    std::fill_n(memory_.get(), size_, A(0));
  }
  // Arrays start at different places of a page, so that rows of several do not share cache sets.
  A* take(int64_t elements) {
    A* at = memory_.get() + used_;
    used_ += static_cast<size_t>((elements + 16 + 15) / 16 * 16);
    STRATA_CHECK(used_ <= size_, "the arena of gated linear attention is too small");
    return at;
  }

 private:
  struct Free {
    void operator()(A* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  size_t size_, used_ = 0;
  std::unique_ptr<A, Free> memory_;
};

// [B, T, heads, width] with adjacent features.
template <class S>
struct Heads {
  Tensor tensor;
  S* data = nullptr;
  int64_t row = 0, token = 0, head = 0;

  explicit Heads(const Tensor& x)
      : tensor(x.size(3) <= 1 || x.stride(3) == 1 ? x : x.contiguous()),
        row(tensor.stride(0)),
        token(tensor.stride(1)),
        head(tensor.stride(2)) {
    if constexpr (std::is_const_v<S>) {
      data = tensor.const_data_ptr<std::remove_const_t<S>>();
    } else {
      data = tensor.mutable_data_ptr<S>();
    }
  }
  S* at(int64_t b, int64_t t, int64_t h) const { return data + b * row + t * token + h * head; }
};

struct Sizes {
  int64_t B, T, H, G, K, V;
  int64_t group, chunks, turns, Kp, Vp;
  explicit Sizes(const Inputs& in)
      : B(in.q_BTHK.size(0)),
        T(in.q_BTHK.size(1)),
        H(in.q_BTHK.size(2)),
        G(in.k_BTGK.size(2)),
        K(in.q_BTHK.size(3)),
        V(in.v_BTGV.size(3)),
        group(G > 0 ? H / G : 0),
        chunks((T + kChunk - 1) / kChunk),
        turns((chunks + kTurn - 1) / kTurn),
        Kp(padded(K)),
        Vp(padded(V)) {}
};

// What each token does to the state. A segment goes on behind padding.
std::vector<Token> token_kinds(const Inputs& in, const Sizes& n);

// The decays of a chunk and their products at the present level of borders.
template <class A>
struct ChunkDecays {
  A *a, *into, *out, *totals, *whole;
  int64_t width;
  ChunkDecays(Arena<A>& arena, int64_t Kp)
      : a(arena.take(kChunk * Kp)),
        into(arena.take(kChunk * Kp)),
        out(arena.take(kChunk * Kp)),
        totals(arena.take(kSubs * Kp)),
        whole(arena.take(Kp)),
        width(Kp) {}
  static int64_t elements(int64_t Kp) { return (3 * kChunk + kSubs + 1) * Kp + 5 * 32; }
  void compute(const A* g, int64_t g_stride, int64_t K, const Token* tokens, int64_t rows) {
    simd::run<Decays<A>>(Decays<A>{g, g_stride, K, tokens, rows, a, into, out, totals, width});
    chunk_decay(totals, whole, width);
  }
};

template <class S, class A>
void load_rows(const S* from, int64_t stride, int64_t width, const Token* tokens, int64_t rows,
               A scale, A* to, int64_t to_stride) {
  simd::run<LoadRows<S, A>>(
      LoadRows<S, A>{from, stride, width, tokens, rows, scale, to, to_stride});
}
template <class S, class A>
void store_rows(const A* from, int64_t from_stride, int64_t width, int64_t rows, S* to,
                int64_t stride) {
  simd::run<StoreRows<S, A>>(StoreRows<S, A>{from, from_stride, width, rows, to, stride});
}

// Asks for the rows of the chunk that comes next, which lie too far apart for the processor to
// guess; they lie within [first, last).
template <class S>
void prefetch(const Heads<S>& x, int64_t b, int64_t t, int64_t h, int64_t first, int64_t last) {
  constexpr int64_t kLine = 64;
  if (t < first) return;
  const int64_t width = x.tensor.size(3) * static_cast<int64_t>(sizeof(S));
  for (int64_t r = t; r < std::min(last, t + kChunk); ++r) {
    const char* row = reinterpret_cast<const char*>(x.at(b, r, h));
    for (int64_t i = 0; i < width; i += kLine) __builtin_prefetch(row + i, 0, 2);
  }
}

// scores[32 rows of queries, 32 of keys] and the like, all with row distance kChunk.
template <class A>
void block_scores(A* scores, const A* queries, const A* keys, int64_t query, int64_t key,
                  int64_t size, int64_t Kp) {
  block::gemm<A>(false, true, size, size, Kp, queries + query * Kp, Kp, keys + key * Kp, Kp,
                 scores + query * kChunk + key, kChunk, false);
}

// body(row, first key/value head, heads) for all of them, on the threads of LibTorch's pool.
template <class Body>
void for_heads(const Sizes& n, const Body& body) {
  at::parallel_for(0, n.B * n.G, 1, [&](int64_t begin, int64_t end) {
    const FlushSubnormals flush;
    while (begin < end) {
      const int64_t b = begin / n.G, next = std::min(end, (b + 1) * n.G);
      body(b, begin - b * n.G, next - begin);
      begin = next;
    }
  });
}

}  // namespace strata::ops::gla_cpu
