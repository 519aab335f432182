#include "core/ops/matrix_product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <memory>

#include "core/error.h"
#include "core/ops/block_gemm.h"
#include "core/ops/cpu_rows.h"
#include "core/text.h"

namespace strata::ops {

namespace matrix_product_detail {

// A block of C per task (fewer rows where there would be few tasks), and the steps of k for which
// its rows of A stay in the second-level cache.
constexpr int64_t kBlockColumns = 256, kDepth = 256;
int64_t block_rows(int64_t M, int64_t N) { return M * N <= 512 * 512 ? 64 : 256; }

bool own_kernel(const Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

// A matrix whose rows, or whose columns, are dense.
struct Matrix {
  Tensor tensor;
  bool transposed = false;
  int64_t stride = 0;
};
Matrix matrix_of(const Tensor& x) {
  const int64_t rows = x.size(0), columns = x.size(1);
  if (x.stride(1) == 1 || columns <= 1) return {x, false, rows <= 1 ? columns : x.stride(0)};
  if (x.stride(0) == 1 || rows <= 1) return {x, true, x.stride(1)};
  return {x.contiguous(), false, columns};
}

template <class T>
void product(const Tensor& to, const Tensor& a_MK, const Tensor& b_KN, bool accumulate) {
  const int64_t M = to.size(0), N = to.size(1), K = a_MK.size(1), height = block_rows(M, N);
  const Matrix a = matrix_of(a_MK), b = matrix_of(b_KN);
  const T* A = a.tensor.const_data_ptr<T>();
  const T* B = b.tensor.const_data_ptr<T>();
  T* C = to.mutable_data_ptr<T>();
  const int64_t ldc = M <= 1 ? N : to.stride(0);
  const int64_t across = (N + kBlockColumns - 1) / kBlockColumns, down = (M + height - 1) / height;
  for_blocks(across * down, 1, [&](int64_t task, int64_t, int64_t) {
    const int64_t m = task / across * height, n = task % across * kBlockColumns;
    const int64_t rows = std::min(height, M - m), columns = std::min(kBlockColumns, N - n);
    // Columns of a wide A share few cache sets: they are turned into rows first.
    const auto turned = std::make_unique_for_overwrite<T[]>(
        static_cast<size_t>(a.transposed ? height * kDepth : 0));
    for (int64_t k = 0; k == 0 || k < K; k += kDepth) {
      const int64_t depth = std::min(kDepth, K - k);
      const T* from = A + (a.transposed ? k * a.stride + m : m * a.stride + k);
      if (a.transposed) {
        block::transpose(depth, rows, from, a.stride, turned.get(), kDepth);
        from = turned.get();
      }
      block::gemm(false, b.transposed, rows, columns, depth, from, a.transposed ? kDepth : a.stride,
                  B + (b.transposed ? n * b.stride + k : k * b.stride + n), b.stride,
                  C + m * ldc + n, ldc, accumulate || k > 0);
    }
  });
}

void own_product(const Tensor& to, const Tensor& a, const Tensor& b, bool accumulate) {
  if (a.scalar_type() == at::kFloat) {
    product<float>(to, a, b, accumulate);
  } else {
    product<double>(to, a, b, accumulate);
  }
}

}  // namespace matrix_product_detail

void matrix_product_out(const Tensor& to, const Tensor& a, const Tensor& b, bool accumulate) {
  using namespace matrix_product_detail;
  STRATA_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) &&
                   to.sizes() == Shape({a.size(0), b.size(1)}) &&
                   (to.stride(1) == 1 || to.size(1) <= 1),
               cat("matrix_product: ", shape_text(a.sizes()), " times ", shape_text(b.sizes()),
                   " into ", shape_text(to.sizes())));
  if (own_kernel(a)) return own_product(to, a, b, accumulate);
  Tensor out = to;
  if (accumulate) {
    at::addmm_out(out, to, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

Tensor matrix_product(const Tensor& a, const Tensor& b) {
  Tensor to = at::empty({a.size(0), b.size(1)}, a.options());
  matrix_product_out(to, a, b);
  return to;
}

Tensor matrix_products(const Tensor& a, const Tensor& b) {
  if (!matrix_product_detail::own_kernel(a)) return at::bmm(a, b);
  Tensor to = at::empty({a.size(0), a.size(1), b.size(2)}, a.options());
  for (int64_t l = 0; l < a.size(0); ++l) matrix_product_out(to[l], a[l], b[l]);
  return to;
}

}  // namespace strata::ops
