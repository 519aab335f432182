#include "core/ops/attention.h"

#include <ATen/ops/scaled_dot_product_attention.h>

#include "core/error.h"
#include "core/ops/attention_mask.h"
#include "core/text.h"

namespace strata::ops {

namespace attention_detail {

void check_shapes(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGK,
                  const Tensor& segments_BT, const AttentionDropout& dropout) {
  STRATA_CHECK(q_BTHK.dim() == 4 && k_BTGK.dim() == 4 && v_BTGK.sizes() == k_BTGK.sizes() &&
                   q_BTHK.size(0) == k_BTGK.size(0) && q_BTHK.size(1) <= k_BTGK.size(1) &&
                   q_BTHK.size(3) == k_BTGK.size(3) && k_BTGK.size(2) > 0 &&
                   q_BTHK.size(2) % k_BTGK.size(2) == 0,
               cat("causal_attention: q ", shape_text(q_BTHK.sizes()), ", k ",
                   shape_text(k_BTGK.sizes()), ", v ", shape_text(v_BTGK.sizes()),
                   " are not [B, T, H, K], [B, T, G, K], [B, T, G, K] with H a multiple of G"));
  STRATA_CHECK(!segments_BT.defined() || segments_BT.sizes() == q_BTHK.sizes().slice(0, 2),
               cat("causal_attention: segments ", shape_text(segments_BT.sizes()),
                   " are not [B, T] of q ", shape_text(q_BTHK.sizes())));
  STRATA_CHECK(q_BTHK.size(1) == k_BTGK.size(1) || (!segments_BT.defined() && dropout.prob == 0),
               "causal_attention: segments or dropout with fewer queries than keys");
  STRATA_CHECK(dropout.prob >= 0 && dropout.prob < 1,
               cat("causal_attention: dropout probability ", dropout.prob));
}

Tensor repeat_heads(const Tensor& x_BTGK, int64_t heads) {
  const int64_t G = x_BTGK.size(2);
  if (G == heads) {
    return x_BTGK;
  }
  const int64_t B = x_BTGK.size(0), T = x_BTGK.size(1), K = x_BTGK.size(3);
  return x_BTGK.unsqueeze(3).expand({B, T, G, heads / G, K}).reshape({B, T, heads, K});
}

}  // namespace attention_detail

Tensor causal_attention(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGK,
                        const Tensor& segments_BT, double scale, const AttentionDropout& dropout) {
  using namespace attention_detail;
  if (dropout.prob > 0 || q_BTHK.numel() == 0) {
    return causal_attention_composite(q_BTHK, k_BTGK, v_BTGK, segments_BT, scale, dropout);
  }
  check_shapes(q_BTHK, k_BTGK, v_BTGK, segments_BT, dropout);
  const int64_t T = q_BTHK.size(1), S = k_BTGK.size(1), H = q_BTHK.size(2);
  const Tensor q = q_BTHK.transpose(1, 2);
  const Tensor k = repeat_heads(k_BTGK, H).transpose(1, 2);
  const Tensor v = repeat_heads(v_BTGK, H).transpose(1, 2);
  std::optional<Tensor> mask;
  if (segments_BT.defined() || (T < S && T > 1)) {
    mask = visible_pairs(segments_BT, T, S, q.device());
  }
  const bool causal = !mask.has_value() && T == S;  // the last query alone sees everything
  const Tensor out =
      at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, causal, scale);
  return out.transpose(1, 2).contiguous();
}

}  // namespace strata::ops
