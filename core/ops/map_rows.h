#pragma once
// Pointwise CPU kernels: Function::apply(in, out) turns In registers into Out registers.
#include <array>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops {

template <class S, size_t In, size_t Out>
struct MapSpan {
  std::array<const S*, In> in;
  std::array<int64_t, In> in_stride;
  std::array<S*, Out> out;  // rows of `width` elements without gaps
  int64_t rows = 0, width = 0;
};

template <class Function, class A>
struct MapKernel {
  template <int Bytes, class S, size_t In, size_t Out>
  [[gnu::always_inline]] static inline void run(const MapSpan<S, In, Out>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* from[In];
      S* to[Out];
      for (size_t k = 0; k < In; ++k) {
        from[k] = span.in[k] + r * span.in_stride[k];
      }
      for (size_t k = 0; k < Out; ++k) {
        to[k] = span.out[k] + r * span.width;
      }
      simd::sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            V in[In], out[Out];
            for (size_t k = 0; k < In; ++k) {
              in[k] = simd::load<V>(from[k] + i, lanes);
            }
            Function::apply(in, out);
            for (size_t k = 0; k < Out; ++k) {
              simd::store(to[k] + i, out[k], lanes);
            }
          });
    }
  }
};

// Inputs of one shape and dtype, outputs contiguous of the same.
template <class Function, size_t In, size_t Out>
void map_rows(const std::array<Tensor, In>& inputs, const std::array<Tensor, Out>& outputs) {
  std::array<Rows, In> rows;
  bool dense = true;
  for (size_t k = 0; k < In; ++k) {
    rows[k] = rows_of(inputs[k]);
    dense = dense && rows[k].dense();
  }
  const int64_t count = dense ? inputs[0].numel() : rows[0].count;
  const int64_t width = rows[0].width;
  with_types(inputs[0], [&]<class S, class A>(S, A) {
    for_blocks(count, dense ? kBlockElements : rows_per_block(width),
               [&](int64_t, int64_t begin, int64_t end) {
                 MapSpan<S, In, Out> span;
                 span.rows = dense ? 1 : end - begin;
                 span.width = dense ? end - begin : width;
                 for (size_t k = 0; k < In; ++k) {
                   span.in[k] = rows[k].template data<S>() + begin * (dense ? 1 : rows[k].stride);
                   span.in_stride[k] = rows[k].stride;
                 }
                 for (size_t k = 0; k < Out; ++k) {
                   span.out[k] =
                       outputs[k].template mutable_data_ptr<S>() + begin * (dense ? 1 : width);
                 }
                 simd::run<MapKernel<Function, A>>(span);
               });
  });
}

}  // namespace strata::ops
