// One sweep over a row per function; 16-bit logits are widened in registers and the gradient is
// rounded once, in place.
#include "core/ops/cross_entropy_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "core/batch.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::cross_entropy_cpu {

namespace cross_entropy_cpu_detail {

template <class S, class A>
struct Span {
  const S* logits = nullptr;
  int64_t stride = 0;
  S* gradient = nullptr;  // rows of the same stride; may be logits
  const int64_t* targets = nullptr;
  int64_t first_column = 0;
  const A* max = nullptr;  // null for RowMax
  A *sum = nullptr, *shifted = nullptr,
    *target = nullptr;  // results; sum is the row's whole sum in Backward
  bool smoothing = false;
  int64_t rows = 0, width = 0;
  A z_loss = 0, target_weight = 1, uniform = 0;  // zeta, 1 - alpha, alpha / vocabulary

  // Column of the row's target here, or -1; an ignored target lies below every column.
  [[gnu::always_inline]] inline int64_t column(int64_t row) const {
    const int64_t column = targets[row] - first_column;
    return column >= 0 && column < width ? column : -1;
  }
};

template <class A>
struct RowMax {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    constexpr int64_t N = simd::kLanes<V>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* l = span.logits + r * span.stride;
      const V none = simd::broadcast<V>(-std::numeric_limits<A>::infinity());
      V most0 = none, most1 = none, most2 = none, most3 = none;
      int64_t i = 0;
      for (; i + 4 * N <= span.width; i += 4 * N) {
        most0 = simd::max(simd::load<V>(l + i), most0);
        most1 = simd::max(simd::load<V>(l + i + N), most1);
        most2 = simd::max(simd::load<V>(l + i + 2 * N), most2);
        most3 = simd::max(simd::load<V>(l + i + 3 * N), most3);
      }
      A most = simd::max_of(simd::max(simd::max(most0, most1), simd::max(most2, most3)));
      for (; i < span.width; ++i) {
        most = std::max(most, static_cast<A>(l[i]));
      }
      span.sum[r] = most;
    }
  }
};

template <class A>
struct ExpSums {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* l = span.logits + r * span.stride;
      const A most = span.max[r];
      span.sum[r] = simd::sum_sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            return simd::within(simd::exp(static_cast<V>(simd::load<V>(l + i, lanes) - most)),
                                lanes);
          });
      if (span.smoothing) {
        span.shifted[r] = simd::sum_sweep<V>(
            span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
              return simd::within(static_cast<V>(simd::load<V>(l + i, lanes) - most), lanes);
            });
      }
      const int64_t column = span.column(r);
      span.target[r] = column >= 0 ? static_cast<A>(l[column]) - most : A(0);
    }
  }
};

// p (1 + 2 zeta lse) - (1 - alpha) [target] - alpha / vocabulary, p = exp(l - max) / sum.
template <class A>
struct Backward {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S, A>& span) {
    using V = simd::Vec<A, Bytes>;
    for (int64_t r = 0; r < span.rows; ++r) {
      const S* l = span.logits + r * span.stride;
      S* gradient = span.gradient + r * span.stride;
      if (span.targets[r] == kIgnoreLabel) {
        for (int64_t i = 0; i < span.width; ++i) {
          gradient[i] = S(0);
        }
        continue;
      }
      const A most = span.max[r], sum = span.sum[r];
      const A scale = (A(1) + 2 * span.z_loss * (most + std::log(sum))) / sum;
      const int64_t column = span.column(r);
      const A at_target = column >= 0 ? static_cast<A>(l[column]) - most : A(0);
      const A uniform = span.uniform;
      simd::sweep<V>(
          span.width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
            const V e = simd::exp(static_cast<V>(simd::load<V>(l + i, lanes) - most));
            simd::store(gradient + i, static_cast<V>(e * scale - uniform), lanes);
          });
      if (column >= 0) {
        const V e = simd::exp(simd::broadcast<V>(at_target));
        gradient[column] = static_cast<S>(e[0] * scale - uniform - span.target_weight);
      }
    }
  }
};

}  // namespace cross_entropy_cpu_detail

Tensor row_max(const Tensor& logits_NV) {
  using namespace cross_entropy_cpu_detail;
  const Rows logits = rows_of(logits_NV);
  const int64_t N = logits_NV.size(0), V = logits_NV.size(1);
  const Tensor out =
      at::empty({N}, logits_NV.options().dtype(accumulate_dtype(logits_NV.scalar_type())));
  with_types(logits_NV, [&]<class S, class A>(S, A) {
    for_blocks(N, rows_per_block(V), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.logits = logits.data<S>() + begin * logits.stride;
      span.stride = logits.stride;
      span.sum = out.mutable_data_ptr<A>() + begin;
      span.rows = end - begin;
      span.width = V;
      simd::run<RowMax<A>>(span);
    });
  });
  return out;
}

Tensor exp_sums(const Tensor& logits_NV, const Tensor& max_N, const Tensor& targets_N,
                int64_t first_column, bool smoothing) {
  using namespace cross_entropy_cpu_detail;
  const Rows logits = rows_of(logits_NV);
  const int64_t N = logits_NV.size(0), V = logits_NV.size(1);
  const Tensor targets = targets_N.contiguous(), most = max_N.contiguous();
  Tensor out = at::zeros({3, N}, max_N.options());
  with_types(logits_NV, [&]<class S, class A>(S, A) {
    for_blocks(N, rows_per_block(V), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.logits = logits.data<S>() + begin * logits.stride;
      span.stride = logits.stride;
      span.targets = targets.const_data_ptr<int64_t>() + begin;
      span.first_column = first_column;
      span.max = most.const_data_ptr<A>() + begin;
      span.sum = out.mutable_data_ptr<A>() + begin;
      span.shifted = span.sum + N;
      span.target = span.sum + 2 * N;
      span.smoothing = smoothing;
      span.rows = end - begin;
      span.width = V;
      simd::run<ExpSums<A>>(span);
    });
  });
  return out;
}

void backward_(const Tensor& logits_NV, const Tensor& sums_3N, const Tensor& max_N,
               const Tensor& targets_N, int64_t first_column, int64_t vocabulary,
               const CrossEntropyOptions& options) {
  using namespace cross_entropy_cpu_detail;
  const Rows logits =
      rows_of(logits_NV);  // a copy where the rows cannot be addressed: copied back below
  const int64_t N = logits_NV.size(0), V = logits_NV.size(1);
  const Tensor targets = targets_N.contiguous(), most = max_N.contiguous(),
               sums = sums_3N.contiguous();
  with_types(logits_NV, [&]<class S, class A>(S, A) {
    for_blocks(N, rows_per_block(V), [&](int64_t, int64_t begin, int64_t end) {
      Span<S, A> span;
      span.gradient = logits.tensor.mutable_data_ptr<S>() + begin * logits.stride;
      span.logits = span.gradient;
      span.stride = logits.stride;
      span.targets = targets.const_data_ptr<int64_t>() + begin;
      span.first_column = first_column;
      span.max = most.const_data_ptr<A>() + begin;
      span.sum = sums.mutable_data_ptr<A>() + begin;
      span.rows = end - begin;
      span.width = V;
      span.z_loss = static_cast<A>(options.z_loss);
      span.target_weight = static_cast<A>(1 - options.label_smoothing);
      span.uniform = static_cast<A>(options.label_smoothing / static_cast<double>(vocabulary));
      simd::run<Backward<A>>(span);
    });
  });
  if (!logits.tensor.is_same(logits_NV) && logits.tensor.data_ptr() != logits_NV.data_ptr()) {
    logits_NV.copy_(logits.tensor);
  }
}

}  // namespace strata::ops::cross_entropy_cpu
