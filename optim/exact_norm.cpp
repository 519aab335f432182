#include "optim/exact_norm.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"

namespace strata {
namespace exact_norm_detail {

// Largest absolute value; NaN if any is not finite.
template <class T>
double largest(const T* g, int64_t n, double so_far) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = std::abs(static_cast<double>(g[i]));
    if (!std::isfinite(x)) return std::nan("");
    so_far = std::max(so_far, x);
  }
  return so_far;
}

struct FixedPoint {
  int64_t high = 0, low = 0;
};

template <class T>
void add_squares(const T* g, int64_t n, double scale, FixedPoint& sum) {
  constexpr double kLowBits = 1 << 30;
  for (int64_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(g[i]) * scale;  // a power of two: exact
    const double q = x * x, whole = std::floor(q);
    sum.high += static_cast<int64_t>(whole);
    sum.low += static_cast<int64_t>((q - whole) * kLowBits);
  }
}

// Calls f(pointer, count) on the counted part of every slice, in its own type.
template <class F>
void for_counted(std::span<const OwnedSlice> slices, F&& f) {
  for (const OwnedSlice& s : slices) {
    if (s.norm.size() == 0) continue;
    const Tensor g = s.counted(s.grad).to(at::kCPU);
    if (g.scalar_type() == at::kDouble) {
      f(g.const_data_ptr<double>(), g.numel());
    } else {
      STRATA_CHECK(g.scalar_type() == at::kFloat, "gradients are accumulated in fp32 or fp64");
      f(g.const_data_ptr<float>(), g.numel());
    }
  }
}

}  // namespace exact_norm_detail

double exact_sum_of_squares(std::span<const OwnedSlice> slices, int64_t elements,
                            Communicator& job) {
  using namespace exact_norm_detail;
  double most = 0;
  for_counted(slices, [&](const auto* g, int64_t n) {
    if (!std::isnan(most)) most = largest(g, n, most);
  });
  Tensor peak = at::zeros({2}, at::TensorOptions().dtype(at::kDouble));
  double* p = peak.mutable_data_ptr<double>();
  p[0] = std::isnan(most) ? 0 : most;
  p[1] = std::isnan(most) ? 1 : 0;
  job.all_reduce(peak, ReduceOp::Max, {0, SiteOp::Norm}).wait_host();
  if (p[1] > 0) return std::nan("");
  if (p[0] == 0) return 0;

  // The scale's half is a whole number, so that scaling g is exact.
  const int bits =
      std::min(30, 62 - static_cast<int>(std::bit_width(static_cast<uint64_t>(elements))));
  const int half = bits / 2;
  int exponent = 0;
  std::frexp(p[0], &exponent);
  FixedPoint sum;
  for_counted(slices, [&](const auto* g, int64_t n) {
    add_squares(g, n, std::ldexp(1.0, half - exponent), sum);
  });
  Tensor total = at::zeros({2}, at::TensorOptions().dtype(at::kLong));
  int64_t* t = total.mutable_data_ptr<int64_t>();
  t[0] = sum.high;
  t[1] = sum.low;
  job.all_reduce(total, ReduceOp::Sum, {0, SiteOp::Norm}).wait_host();
  return std::ldexp(static_cast<double>(t[0]) + std::ldexp(static_cast<double>(t[1]), -30),
                    2 * (exponent - half));
}

}  // namespace strata
