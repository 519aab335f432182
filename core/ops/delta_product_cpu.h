#pragma once
// CPU kernels of delta_product.h: one task per (row, head), a chunk's operands in cache.
#include <vector>

#include "core/ops/delta_product.h"

namespace strata::ops::delta_cpu {

// Some consecutive tokens (padding left out) of one document.
struct Chunk {
  int64_t first;    // position of its first token in Row::tokens
  int64_t count;    // tokens
  bool restart;     // begins a document other than the row's first: the state before it is zero
  int64_t inverse;  // where its [count n, count n] inverse lies among the row's
};
struct Row {
  std::vector<int64_t> tokens;  // numbers of the tokens that are not padding
  std::vector<Chunk> chunks;
  int64_t inverses = 0;  // elements per head
  int64_t before = 0;    // elements per head of all rows before
  int64_t states = 0;    // kept states of all rows before, per head
};
struct Cut {
  std::vector<Row> rows;
  int64_t inverses = 0, states = 0;  // of all rows, per head
  bool padded = false;
};
// How [B, T] tokens of n steps are cut into chunks of at most kDeltaChunk micro-steps.
Cut cut(const Tensor& segments_BT, int64_t B, int64_t T, int64_t steps);

// Every so many chunks the state before a chunk is kept for the backward.
inline constexpr int64_t kStateEvery = 8;

// What the backward takes from the forward, accumulate dtype.
struct Kept {
  Tensor inverses;  // flat: for each row, for each head, its chunks' inverses
  Tensor states;    // [kept states, H, K, V], by row, head and chunk
};

DeltaProductResult forward(const DeltaProductInputs& in, const Cut& cut, Kept* kept);

struct Gradients {
  Tensor q, k, v, gate, beta, initial_state;
};
// do, dstate: undefined counts as zero.
Gradients backward(const Tensor& do_BTHV, const Tensor& dstate_BHKV, const DeltaProductInputs& in,
                   const Cut& cut, const Kept& kept);

}  // namespace strata::ops::delta_cpu
