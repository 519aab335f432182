#pragma once
// How the CPU kernels of this folder see tensors, and how their work is cut for threads.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"

namespace strata::ops {

// CPU tensors of the types the kernels are compiled for; everything else takes the composite form.
inline bool has_cpu_kernel(const Tensor& x) {
  const auto dtype = x.scalar_type();
  return x.device().is_cpu() &&
         (dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16);
}

// A tensor as rows of its last dimension at a uniform distance (in elements), without a copy where
// its strides allow.
struct Rows {
  Tensor tensor;       // keeps the storage
  int64_t count = 0;   // rows
  int64_t width = 0;   // elements of a row, adjacent
  int64_t stride = 0;  // from row to row
  bool dense() const { return stride == width || count <= 1; }
  template <class S>
  const S* data() const {
    return tensor.const_data_ptr<S>();
  }
};
Rows rows_of(const Tensor& x);

// Elements worth one step of a thread; blocks are cut by this number alone, never by the number of
// threads.
inline constexpr int64_t kBlockElements = 16384;
inline int64_t rows_per_block(int64_t width) {
  return std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, width));
}

// body(block, begin, end) for the blocks of `size` items of [0, count), in any order on the threads
// of LibTorch's pool.
template <class Body>
void for_blocks(int64_t count, int64_t size, const Body& body) {
  const int64_t blocks = (count + size - 1) / size;
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      body(block, block * size, std::min(count, (block + 1) * size));
    }
  });
}

// Sums over rows (gradients of weights): every block of so many rows, cut by their number and width
// alone, adds into a partial vector of its own, at most 256 of them; sum_partials() adds those up,
// first to last, so that the bits do not depend on the threads.
int64_t rows_per_partial(int64_t count, int64_t width);
Tensor sum_partials(const Tensor& partials);  // [blocks, width] -> [width]

// f(S{}, A{}) for the element type S of x and its accumulator type A.
template <class F>
void with_types(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case at::kDouble:
      return f(double{}, double{});
    case at::kFloat:
      return f(float{}, float{});
    default:
      return f(c10::BFloat16{}, float{});
  }
}

}  // namespace strata::ops
