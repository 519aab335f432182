// The chunked scan in ATen operations: what runs on devices without a kernel of their own, and what
// the kernels are measured against.
#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "core/ops/ssd.h"
#include "core/ops/ssd_check.h"

namespace strata::ops {

namespace ssd_composite_detail {

// [B, T, ...] -> [B, chunks, Q, ...], missing tokens zero.
Tensor chunks_of(const Tensor& v, int64_t Q, int64_t chunks) {
  const int64_t missing = chunks * Q - v.size(1);
  Tensor whole = v;
  if (missing > 0) {
    Shape more = v.sizes().vec();
    more[1] = missing;
    whole = at::cat({v, at::zeros(more, v.options())}, 1);
  }
  Shape shape = v.sizes().vec();
  shape[1] = Q;
  shape.insert(shape.begin() + 1, chunks);
  return whole.reshape(shape);
}

}  // namespace ssd_composite_detail

SsdResult ssd_composite(const Tensor& x_BTHP, const Tensor& dt_BTH, const Tensor& A_H,
                        const Tensor& B_BTGN, const Tensor& C_BTGN, const Tensor& segments_BT,
                        const Tensor& initial_BHPN, SsdOptions options) {
  using namespace ssd_composite_detail;
  check_scan("ssd", x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, segments_BT, initial_BHPN);
  if (options.reverse) {
    const auto flipped = [](const Tensor& v) { return v.defined() ? v.flip(1) : v; };
    auto mirrored = ssd_composite(flipped(x_BTHP), flipped(dt_BTH), A_H, flipped(B_BTGN),
                                  flipped(C_BTGN), flipped(segments_BT), initial_BHPN,
                                  {.reverse = false, .chunk = options.chunk});
    return {flipped(mirrored.y), mirrored.state};
  }
  const auto dtype = x_BTHP.scalar_type(), acc = accumulate_dtype(dtype);
  const int64_t rows = x_BTHP.size(0), T = x_BTHP.size(1), H = x_BTHP.size(2), P = x_BTHP.size(3);
  const int64_t G = B_BTGN.size(2), N = B_BTGN.size(3), M = H / G;
  const int64_t Q = std::max<int64_t>(1, std::min(options.chunk, T)), chunks = (T + Q - 1) / Q;
  Tensor state = initial_BHPN.defined() ? initial_BHPN.to(acc)
                                        : at::zeros({rows, H, P, N}, x_BTHP.options().dtype(acc));
  if (T == 0 || rows == 0) {
    return {at::zeros_like(x_BTHP) + x_BTHP, state};
  }
  // [row, chunk, head or group, token, ...]; products run in the dtype of x.
  const Tensor x = chunks_of(x_BTHP, Q, chunks).transpose(2, 3);           // [b,c,H,Q,P]
  const Tensor b = chunks_of(B_BTGN, Q, chunks).transpose(2, 3);           // [b,c,G,Q,N]
  const Tensor c = chunks_of(C_BTGN, Q, chunks).transpose(2, 3);           // [b,c,G,Q,N]
  const Tensor dt = chunks_of(dt_BTH.to(acc), Q, chunks).transpose(2, 3);  // [b,c,H,Q]
  const Tensor s = (dt * A_H.to(acc).unsqueeze(-1)).cumsum(-1);            // inclusive
  const Tensor total = s.slice(-1, Q - 1, Q);                              // [b,c,H,1]
  const auto decay = [](const Tensor& log) { return log.clamp_max(0).exp(); };
  const Tensor causal = at::ones({Q, Q}, dt.options().dtype(at::kBool)).tril();
  Tensor pairs = causal, reads = at::ones({1, 1, 1, Q}, dt.options()), keeps = reads;
  Tensor carries = at::ones({1, 1, 1}, dt.options());
  if (segments_BT.defined()) {
    // Documents counted along the row; missing tokens at the end belong to the last one.
    const Tensor change = segments_BT.slice(1, 1, T).ne(segments_BT.slice(1, 0, T - 1));
    Tensor document = at::cat({at::zeros({rows, 1}, segments_BT.options().dtype(at::kLong)),
                               change.to(at::kLong).cumsum(1)},
                              1);
    document = at::cat({document, document.slice(1, T - 1, T).expand({rows, chunks * Q - T})}, 1)
                   .view({rows, chunks, 1, Q});
    const Tensor before = at::cat({document.slice(1, 0, 1).slice(3, 0, 1),
                                   document.slice(1, 0, chunks - 1).slice(3, Q - 1, Q)},
                                  1);
    pairs = causal.logical_and(document.unsqueeze(-1).eq(document.unsqueeze(-2)));
    reads = document.eq(before).to(acc);
    keeps = document.eq(document.slice(3, Q - 1, Q)).to(acc);
    carries = reads.slice(3, Q - 1, Q).squeeze(-1);
  }
  const Tensor log = s.unsqueeze(-1) - s.unsqueeze(-2);
  const Tensor within = at::where(pairs, decay(at::where(pairs, log, at::zeros_like(log))),
                                  at::zeros_like(log));        // [b,c,H,Q,Q]
  const Tensor products = at::matmul(c, b.transpose(-1, -2));  // [b,c,G,Q,Q]
  const Tensor w =
      products.unsqueeze(3).expand({rows, chunks, G, M, Q, Q}).reshape({rows, chunks, H, Q, Q}) *
      (within * dt.unsqueeze(-2)).to(dtype);
  Tensor y = at::matmul(w, x);  // [b,c,H,Q,P]
  // Heads of a group side by side: one product with N as its width for all of them.
  const auto folded = [&](const Tensor& v) {  // [b,c,H,Q,P]
    return v.view({rows, chunks, G, M, Q, P}).transpose(3, 4).reshape({rows, chunks, G, Q, M * P});
  };
  const Tensor left = (decay(total - s) * keeps * dt).unsqueeze(-1).to(dtype);
  const Tensor local = at::matmul(folded((x * left).contiguous()).transpose(-1, -2), b)
                           .to(acc)
                           .view({rows, chunks, H, P, N});
  std::vector<Tensor> before;
  const Tensor through = decay(total.squeeze(-1)) * carries;  // [b,c,H]
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    before.push_back(state);
    state = state * through.select(1, chunk).unsqueeze(-1).unsqueeze(-1) + local.select(1, chunk);
  }
  const Tensor entering =
      at::stack(before, 1).to(dtype).view({rows, chunks, G, M * P, N});  // [b,c,G,MP,N]
  const Tensor brought = at::matmul(c, entering.transpose(-1, -2))
                             .view({rows, chunks, G, Q, M, P})
                             .transpose(3, 4)
                             .reshape({rows, chunks, H, Q, P});
  y = y + brought * (decay(s) * reads).unsqueeze(-1).to(dtype);
  return {y.transpose(2, 3).reshape({rows, chunks * Q, H, P}).slice(1, 0, T), state};
}

}  // namespace strata::ops
