#include "optim/matrix/symmetric_product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/block_gemm.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/tile_product.h"
#include "core/text.h"

namespace strata {
namespace symmetric_product_detail {

using ops::block::gemm;
using ops::block::transpose;

// Rows of a block, columns computed at a time, and the steps of k for which the rows of A stay in
// the second-level cache.
constexpr int64_t kRows = 96, kColumns = 256, kDepth = 256;

bool dense_rows(const Tensor& x) { return x.stride(1) == 1 || x.size(1) <= 1; }
bool dense_columns(const Tensor& x) { return x.stride(0) == 1 || x.size(0) <= 1; }

template <class T>
Tensor with_dense_rows(const Tensor& x) {
  if (!dense_columns(x)) return x.contiguous();
  const int64_t rows = x.size(0), columns = x.size(1), stride = x.stride(1);
  const Tensor out = at::empty({rows, columns}, x.options());
  const T* from = x.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  ops::for_blocks(rows, kRows, [&](int64_t, int64_t begin, int64_t end) {
    transpose(columns, end - begin, from + begin, stride, to + begin * columns, columns);
  });
  return out;
}

template <class T>
struct Operands {
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  bool b_turned;  // columns lie densely
  T* to;
  int64_t m, k;
  bool accumulate;
};

// Rows [begin, end) up to the diagonal, and their mirror image above it.
template <class T>
void block_of_rows(const Operands<T>& o, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  for (int64_t n = 0; n < end; n += kColumns) {
    const int64_t columns = std::min(kColumns, end - n);
    for (int64_t k = 0; k == 0 || k < o.k; k += kDepth) {
      gemm(false, o.b_turned, rows, columns, std::min(kDepth, o.k - k),
           o.a + begin * o.a_stride + k, o.a_stride,
           o.b + (o.b_turned ? n * o.b_stride + k : k * o.b_stride + n), o.b_stride,
           o.to + begin * o.m + n, o.m, o.accumulate || k > 0);
    }
  }
  transpose(rows, begin, o.to + begin * o.m, o.m, o.to + begin, o.m);
}

template <class T>
void lower_half(const Tensor& to, const Tensor& a_mk, const Tensor& b_km, bool accumulate) {
  const Tensor a = dense_rows(a_mk) ? a_mk : with_dense_rows<T>(a_mk);
  const Tensor b = dense_rows(b_km) || dense_columns(b_km) ? b_km : b_km.contiguous();
  const int64_t m = to.size(0), k = a.size(1);
  const bool turned = !dense_rows(b);
  const Operands<T> o{.a = a.const_data_ptr<T>(),
                      .a_stride = m > 1 ? a.stride(0) : k,
                      .b = b.const_data_ptr<T>(),
                      .b_stride = turned ? b.stride(1) : (k > 1 ? b.stride(0) : m),
                      .b_turned = turned,
                      .to = to.mutable_data_ptr<T>(),
                      .m = m,
                      .k = k,
                      .accumulate = accumulate};
  const int64_t blocks = (m + kRows - 1) / kRows;
  // The longest block of rows goes with the shortest: equal work for every thread.
  ops::for_blocks((blocks + 1) / 2, 1, [&](int64_t pair, int64_t, int64_t) {
    const int64_t other = blocks - 1 - pair;
    block_of_rows(o, pair * kRows, std::min(m, (pair + 1) * kRows));
    if (other != pair) block_of_rows(o, other * kRows, std::min(m, (other + 1) * kRows));
  });
}

}  // namespace symmetric_product_detail

void symmetric_product_out(const Tensor& to, const Tensor& a, const Tensor& b, bool accumulate) {
  using namespace symmetric_product_detail;
  STRATA_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(0) == b.size(1) && a.size(1) == b.size(0) &&
                   to.sizes() == Shape({a.size(0), a.size(0)}) && to.is_contiguous(),
               cat("symmetric_product: ", shape_text(a.sizes()), " times ", shape_text(b.sizes()),
                   " into ", shape_text(to.sizes())));
  if (ops::takes_tile_product(a, b)) {
    ops::tile_product_out(to, a, b, {.beta = accumulate ? 1. : 0., .symmetric = true}, to);
  } else if (to.is_cpu() && to.scalar_type() == at::kFloat) {
    lower_half<float>(to, a, b, accumulate);
  } else if (to.is_cpu() && to.scalar_type() == at::kDouble) {
    lower_half<double>(to, a, b, accumulate);
  } else {
    Tensor out = to;
    at::addmm_out(out, to, a, b, accumulate ? 1 : 0);
  }
}

Tensor symmetric_product(const Tensor& a, const Tensor& b) {
  Tensor to = at::empty({a.size(0), a.size(0)}, a.options());
  symmetric_product_out(to, a, b);
  return to;
}

}  // namespace strata
