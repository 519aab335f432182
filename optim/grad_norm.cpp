#include "optim/grad_norm.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace strata {
namespace grad_norm_detail {

constexpr int64_t kBlock = 1 << 14;

template <class T>
__attribute__((optimize("O3"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) double
block_sum(const T* g, int64_t n) {
  constexpr int kLanes = 16;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      const double x = static_cast<double>(g[i + k]);
      lanes[k] += x * x;
    }
  }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  for (double lane : lanes) sum += lane;
  return sum;
}

template <class T>
double sum_of_squares(const T* g, int64_t n) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(blocks);
  at::parallel_for(0, blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      partial[b] = block_sum(g + b * kBlock, std::min(kBlock, n - b * kBlock));
  });
  double sum = 0;
  for (double p : partial) sum += p;
  return sum;
}

}  // namespace grad_norm_detail

NormShare norm_share(std::span<const OwnedSlice> slices) {
  NormShare share;
  for (const OwnedSlice& s : slices) {
    share.elements += static_cast<double>(s.norm.size());
    if (s.norm.size() == 0) continue;
    const Tensor g = s.counted(s.grad);
    if (!g.is_cpu()) {
      share.sum_of_squares += g.to(at::kDouble).square().sum().item<double>();
    } else if (g.scalar_type() == at::kDouble) {
      share.sum_of_squares +=
          grad_norm_detail::sum_of_squares(g.const_data_ptr<double>(), g.numel());
    } else {
      STRATA_CHECK(g.scalar_type() == at::kFloat, "gradients are accumulated in fp32 or fp64");
      share.sum_of_squares +=
          grad_norm_detail::sum_of_squares(g.const_data_ptr<float>(), g.numel());
    }
  }
  return share;
}

}  // namespace strata
