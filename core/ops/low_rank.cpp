#include "core/ops/low_rank.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_svdvals.h>

#include "core/error.h"
#include "core/text.h"

namespace strata::ops {

std::vector<double> singular_values(const Tensor& matrix) {
  const Tensor s = at::linalg_svdvals(matrix.detach().to(at::kCPU, at::kDouble)).contiguous();
  return {s.const_data_ptr<double>(), s.const_data_ptr<double>() + s.numel()};
}

LowRankFactors low_rank_factors(const Tensor& W_OI, int64_t k) {
  const int64_t most = std::min(W_OI.size(0), W_OI.size(1));
  STRATA_CHECK(k >= 1 && k <= most, cat("rank ", k, " of a matrix of rank at most ", most));
  const auto [U, s, Vh] = at::linalg_svd(W_OI.detach().to(at::kDouble), /*full_matrices=*/false);
  const Tensor root = s.narrow(0, 0, k).sqrt();
  const Tensor left_out = s.narrow(0, k, most - k);
  const auto dtype = W_OI.scalar_type();
  return {(U.narrow(1, 0, k) * root).to(dtype).contiguous(),
          (root.unsqueeze(1) * Vh.narrow(0, 0, k)).to(dtype).contiguous(),
          (left_out * left_out).sum().item<double>()};
}

}  // namespace strata::ops
