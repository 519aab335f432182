// Between Monarch factors, block-diagonal weights and dense matrices.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "core/error.h"
#include "core/ops/monarch.h"
#include "core/text.h"

namespace strata::ops {

namespace monarch_convert_detail {

Tensor grown(const Tensor& dense, int64_t out, int64_t in) {
  return at::constant_pad_nd(dense.to(at::kDouble),
                             {0, in - dense.size(1), 0, out - dense.size(0)});
}

Tensor applied_to_identity(int64_t in, const std::function<Tensor(const Tensor&)>& op,
                           const Tensor& like) {
  return op(at::eye(in, like.options())).t().contiguous();
}

}  // namespace monarch_convert_detail

Tensor monarch_to_dense(const Tensor& w1_KQP, const Tensor& w2_LSR, int64_t out_features,
                        int64_t in_features) {
  using namespace monarch_convert_detail;
  at::NoGradGuard no_grad;
  return applied_to_identity(
      in_features, [&](const Tensor& x) { return monarch(x, w1_KQP, w2_LSR, out_features); },
      w1_KQP);
}

Tensor block_diagonal_to_dense(const Tensor& w_KSP, int64_t out_features, int64_t in_features,
                               bool shuffled) {
  using namespace monarch_convert_detail;
  at::NoGradGuard no_grad;
  const int64_t padded = w_KSP.size(0) * w_KSP.size(2);
  return applied_to_identity(
      in_features,
      [&](const Tensor& x) {
        return block_diagonal(shuffled ? shuffle_features(x, w_KSP.size(0), padded) : x, w_KSP,
                              out_features);
      },
      w_KSP);
}

MonarchFactors project_to_monarch(const Tensor& dense_OI, int64_t K, int64_t Q, int64_t L) {
  using namespace monarch_convert_detail;
  at::NoGradGuard no_grad;
  STRATA_CHECK(dense_OI.dim() == 2 && K > 0 && L > 0 && K * Q % L == 0,
               cat("project_to_monarch: ", K, " x ", Q, " intermediates in ", L, " blocks"));
  const int64_t out = dense_OI.size(0), in = dense_OI.size(1);
  const int64_t P = (in + K - 1) / K, S = (out + L - 1) / L, R = K * Q / L;
  const Tensor dense = grown(dense_OI, L * S, K * P);
  MonarchFactors f{at::zeros({K, Q, P}, dense.options()), at::zeros({L, S, R}, dense.options())};
  for (int64_t kappa = 0; kappa < K; ++kappa) {
    for (int64_t lambda = 0; lambda < L; ++lambda) {
      const Tensor part = dense.slice(0, lambda, L * S, L).narrow(1, kappa * P, P);
      const auto [U, sigma, Vh] = at::linalg_svd(part, /*full_matrices=*/false);
      const double* s = sigma.const_data_ptr<double>();
      int64_t rank = 0;
      for (int64_t at = kappa * Q; at < (kappa + 1) * Q; ++at) {
        if (at % L != lambda || rank >= sigma.numel()) continue;
        const double root = std::sqrt(s[rank]);
        f.w1_KQP[kappa][at - kappa * Q].copy_(Vh[rank] * root);
        f.w2_LSR[lambda].select(1, at / L).copy_(U.select(1, rank) * root);
        ++rank;
      }
      for (int64_t i = rank; i < sigma.numel(); ++i) f.squared_error += s[i] * s[i];
    }
  }
  f.w1_KQP = f.w1_KQP.to(dense_OI.scalar_type());
  f.w2_LSR = f.w2_LSR.to(dense_OI.scalar_type());
  return f;
}

MonarchFactors project_to_monarch(const Tensor& dense_OI, int64_t blocks) {
  const MonarchShape s = monarch_shape(dense_OI.size(1), dense_OI.size(0), blocks);
  return project_to_monarch(dense_OI, blocks, s.middle_block, blocks);
}

Tensor project_to_block_diagonal(const Tensor& dense_OI, int64_t blocks, bool shuffled) {
  using namespace monarch_convert_detail;
  at::NoGradGuard no_grad;
  const MonarchShape s = monarch_shape(dense_OI.size(1), dense_OI.size(0), blocks);
  Tensor dense = grown(dense_OI, blocks * s.out_block, blocks * s.in_block);
  if (shuffled) dense = shuffle_features(dense, blocks, blocks * s.in_block);
  Tensor out = at::zeros({blocks, s.out_block, s.in_block}, dense.options());
  for (int64_t k = 0; k < blocks; ++k) {
    out[k].copy_(
        dense.narrow(0, k * s.out_block, s.out_block).narrow(1, k * s.in_block, s.in_block));
  }
  return out.to(dense_OI.scalar_type());
}

}  // namespace strata::ops
