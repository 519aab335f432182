// The definition of causal attention with plain ops, and its layout-free dropout mask.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <limits>

#include "core/ops/attention.h"
#include "core/ops/attention_mask.h"
#include "core/ops/dropout_cpu.h"
#include "core/rng.h"

namespace strata::ops {

namespace attention_detail {

Tensor visible_pairs(const Tensor& segments_BT, int64_t T, int64_t S, at::Device device) {
  const Tensor time = at::arange(S, at::TensorOptions().dtype(at::kLong).device(device));
  const Tensor causal = time.narrow(0, S - T, T).unsqueeze(1) >= time.unsqueeze(0);
  if (!segments_BT.defined()) {
    return causal.unsqueeze(0).unsqueeze(0);
  }
  const Tensor query = segments_BT.unsqueeze(2);
  const Tensor itself = time.unsqueeze(1) == time.unsqueeze(0);
  const Tensor same =
      (query == segments_BT.unsqueeze(1)).logical_and(query != -1).logical_or(itself);
  return causal.logical_and(same).unsqueeze(1);
}

// Factors 0 or 1 / (1 - prob), [B, H, T, T].
Tensor dropout_factors(const AttentionDropout& dropout, int64_t B, int64_t H, int64_t T,
                       at::ScalarType dtype, at::Device device) {
  const int64_t total_heads = dropout.total_heads == 0 ? H : dropout.total_heads;
  if (device.is_meta()) {
    return at::empty({B, H, T, T}, at::TensorOptions().dtype(dtype).device(device));
  }
  const Rng rng(dropout.seed, "dropout", dropout.name);
  Tensor keep = at::empty(
      {B, H, T, T}, at::TensorOptions().dtype(dtype == at::kDouble ? at::kDouble : at::kFloat));
  for (int64_t b = 0; b < B; ++b) {
    // The heads of one row have adjacent numbers.
    const auto first =
        static_cast<uint64_t>(((dropout.first_row + b) * total_heads + dropout.first_head) * T * T);
    const Tensor row = keep[b];
    if (dtype == at::kDouble) {
      dropout_cpu::keep_factors(rng, first, H * T * T, dropout.step, dropout.prob,
                                row.mutable_data_ptr<double>());
    } else {
      dropout_cpu::keep_factors(rng, first, H * T * T, dropout.step, dropout.prob,
                                row.mutable_data_ptr<float>());
    }
  }
  return keep.to(device, dtype);
}

}  // namespace attention_detail

Tensor causal_attention_composite(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGK,
                                  const Tensor& segments_BT, double scale,
                                  const AttentionDropout& dropout) {
  using namespace attention_detail;
  check_shapes(q_BTHK, k_BTGK, v_BTGK, segments_BT, dropout);
  const auto acc = accumulate_dtype(q_BTHK.scalar_type());
  const int64_t B = q_BTHK.size(0), T = q_BTHK.size(1), H = q_BTHK.size(2);
  const Tensor q = q_BTHK.to(acc).transpose(1, 2);
  const Tensor k = repeat_heads(k_BTGK, H).to(acc).transpose(1, 2);
  const Tensor v = repeat_heads(v_BTGK, H).to(acc).transpose(1, 2);
  const Tensor hidden = visible_pairs(segments_BT, T, k_BTGK.size(1), q.device()).logical_not();
  const Tensor scores = at::matmul(q, k.transpose(2, 3)) * scale;
  Tensor weights = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()).softmax(-1);
  if (dropout.prob > 0) {
    weights = weights * dropout_factors(dropout, B, H, T, acc, q.device());
  }
  return at::matmul(weights, v).transpose(1, 2).contiguous().to(q_BTHK.scalar_type());
}

}  // namespace strata::ops
