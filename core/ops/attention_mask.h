#pragma once
// Shared by the ways causal attention is computed: argument checks, the visibility mask, repeated
// key/value heads.
#include "core/ops/attention.h"

namespace strata::ops::attention_detail {

void check_shapes(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGK,
                  const Tensor& segments_BT, const AttentionDropout& dropout);

// True where query t of the last T positions sees key s of all S: [1 or B, 1, T, S] bool.
Tensor visible_pairs(const Tensor& segments_BT, int64_t T, int64_t S, at::Device device);

// [B, T, G, K] -> [B, T, H, K]; query head h reads head h / (H/G). The input itself when G = H.
Tensor repeat_heads(const Tensor& x_BTGK, int64_t heads);

}  // namespace strata::ops::attention_detail
