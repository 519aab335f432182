#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "core/ops/delta_product.h"

namespace strata::ops {

namespace delta_product_composite_detail {

// Which document each token belongs to: 0, 1, ... counted where the value changes from one token to
// the next that is not padding; a padded token belongs to the one before it. `real` is false there.
struct Documents {
  Tensor number_BT;  // int64
  Tensor real_BT;    // bool; undefined: all
};
Documents documents(const Tensor& segments_BT, const Tensor& q_BTHK) {
  const int64_t B = q_BTHK.size(0), T = q_BTHK.size(1);
  const auto ids = q_BTHK.options().dtype(at::kLong);
  if (!segments_BT.defined()) return {at::zeros({B, T}, ids), Tensor()};
  const Tensor real = segments_BT != -1;
  // Position of the last real token up to each token, -1: none yet.
  const Tensor position = at::arange(T, ids).unsqueeze(0);
  const Tensor last = std::get<0>(at::where(real, position, at::zeros({}, ids) - 1).cummax(1));
  const Tensor value = segments_BT.to(at::kLong).gather(1, last.clamp_min(0));
  const Tensor before = last.slice(1, 0, T - 1), after = last.slice(1, 1, T);
  const Tensor changed =
      (value.slice(1, 1, T) != value.slice(1, 0, T - 1)) & (before >= 0) & (after >= 0);
  return {at::constant_pad_nd(changed.to(at::kLong), {1, 0}).cumsum(1), real};
}

Tensor masked(const Tensor& x, const Tensor& real) {
  if (!real.defined()) return x;
  Tensor r = real;
  while (r.dim() < x.dim()) r = r.unsqueeze(-1);
  return at::where(r, x, at::zeros({}, x.options()));
}

// [B, T', H, W] -> [B, H, chunks, rows, W], zeros appended to the time axis.
Tensor chunked(const Tensor& x, int64_t missing, int64_t rows) {
  const Tensor padded = at::constant_pad_nd(x, {0, 0, 0, 0, 0, missing});
  return padded.view({x.size(0), -1, rows, x.size(2), x.size(3)}).permute({0, 3, 1, 2, 4});
}

}  // namespace delta_product_composite_detail

DeltaProductResult delta_product_composite(const DeltaProductInputs& in) {
  using namespace delta_product_composite_detail;
  const auto acc = in.beta_BMH.scalar_type();
  const int64_t B = in.q_BTHK.size(0), T = in.q_BTHK.size(1), H = in.q_BTHK.size(2);
  const int64_t K = in.q_BTHK.size(3), V = in.v_BMHV.size(3);
  Tensor state = in.initial_state_BHKV.defined() ? in.initial_state_BHKV
                                                 : at::zeros({B, H, K, V}, in.beta_BMH.options());
  if (T == 0) return {in.v_BMHV.new_empty({B, 0, H, V}), state};
  const int64_t n = in.k_BMHK.size(1) / T;
  const int64_t C = std::min<int64_t>(T, std::max<int64_t>(1, kDeltaChunk / n)), L = C * n;
  const int64_t missing = (C - T % C) % C;
  const Documents docs = documents(in.segments_BT, in.q_BTHK);
  Tensor real_BM = docs.real_BT;
  if (real_BM.defined()) real_BM = real_BM.repeat_interleave(n, 1);

  // Tokens appended or padded: beta = 0 and gate = 0 leave the state as it is.
  const Tensor q = chunked(masked(in.q_BTHK, docs.real_BT).to(acc), missing, C);
  const Tensor k = chunked(in.k_BMHK.to(acc), missing * n, L);
  const Tensor v = chunked(in.v_BMHV.to(acc), missing * n, L);
  const Tensor beta = chunked(masked(in.beta_BMH, real_BM).unsqueeze(-1), missing * n, L);
  const bool gated = in.gate_BTH.defined();
  Tensor G;  // [B, H, chunks, C, 1], in fp64: differences of large sums are exponentiated
  if (gated) {
    G = chunked(masked(in.gate_BTH, docs.real_BT).to(at::kDouble).unsqueeze(-1), missing, C)
            .cumsum(3);
  }
  // Appended tokens count as the last document.
  const Tensor last_doc = docs.number_BT.slice(1, T - 1, T);
  const Tensor doc_BT = at::cat({docs.number_BT, last_doc.expand({B, missing})}, 1);
  const Tensor doc = doc_BT.view({B, 1, -1, C, 1});     // [B, 1, chunks, C, 1]
  const Tensor same = doc == doc.transpose(-1, -2);     // [B, 1, chunks, C, C]
  const Tensor at_end = doc == doc.slice(3, C - 1, C);  // in the chunk's last document
  const Tensor before =
      at::constant_pad_nd(doc_BT, {1, 0}).slice(1, 0, doc_BT.size(1)).view({B, 1, -1, C, 1});
  const Tensor continues = doc == before.slice(3, 0, 1);  // in the document before
  const auto decay = [&](const Tensor& exponent, const Tensor& keep) {
    const Tensor zero = at::zeros({}, in.beta_BMH.options());
    if (!gated) return at::where(keep, zero + 1, zero);
    const Tensor safe = at::where(keep, exponent, at::zeros({}, exponent.options()));
    return at::where(keep, safe.exp().to(acc), zero);
  };
  const auto per_step = [&](const Tensor& x) { return x.repeat_interleave(n, 3); };
  const Tensor token = at::arange(C, doc.options()), step = at::arange(L, doc.options());
  const Tensor reach = same & (token.unsqueeze(1) >= token.unsqueeze(0));
  const Tensor between =
      decay(gated ? G - G.transpose(-1, -2) : Tensor(), reach).repeat_interleave(n, 4);
  const Tensor from_start = decay(G, continues);
  const Tensor to_end = per_step(decay(gated ? G.slice(3, C - 1, C) - G : Tensor(), at_end));
  const Tensor whole = from_start.slice(3, C - 1, C);

  const Tensor strict = (step.unsqueeze(1) > step.unsqueeze(0)).to(acc);
  const Tensor system = at::matmul(k, k.transpose(-1, -2)) * per_step(between) * strict * beta +
                        at::eye(L, in.beta_BMH.options());
  const Tensor right = at::cat({v * beta, k * (beta * per_step(from_start))}, -1);
  const Tensor solved = at::linalg_solve_triangular(system, right, /*upper=*/false, /*left=*/true,
                                                    /*unitriangular=*/true);
  const Tensor U = solved.slice(-1, 0, V), W = solved.slice(-1, V, V + K);
  const Tensor scores = at::matmul(q, k.transpose(-1, -2)) * between;
  const Tensor q_start = q * from_start, k_end = (k * to_end).transpose(-1, -2);
  std::vector<Tensor> outputs;
  for (int64_t c = 0; c < U.size(2); ++c) {
    const Tensor update = U.select(2, c) - at::matmul(W.select(2, c), state);
    outputs.push_back(at::matmul(q_start.select(2, c), state) +
                      at::matmul(scores.select(2, c), update));
    state = state * whole.select(2, c) + at::matmul(k_end.select(2, c), update);
  }
  const Tensor o = at::stack(outputs, 2).view({B, H, -1, V}).slice(2, 0, T).transpose(1, 2);
  return {masked(o, docs.real_BT).to(in.v_BMHV.scalar_type()), state};
}

DeltaProductResult delta_product_recurrent(const DeltaProductInputs& in) {
  using namespace delta_product_composite_detail;
  const auto acc = in.beta_BMH.scalar_type();
  const int64_t B = in.q_BTHK.size(0), T = in.q_BTHK.size(1), H = in.q_BTHK.size(2);
  const int64_t K = in.q_BTHK.size(3), V = in.v_BMHV.size(3);
  Tensor state = in.initial_state_BHKV.defined() ? in.initial_state_BHKV
                                                 : at::zeros({B, H, K, V}, in.beta_BMH.options());
  if (T == 0) return {in.v_BMHV.new_empty({B, 0, H, V}), state};
  const int64_t n = in.k_BMHK.size(1) / T;
  const Documents docs = documents(in.segments_BT, in.q_BTHK);
  const Tensor q = in.q_BTHK.to(acc), k = in.k_BMHK.to(acc), v = in.v_BMHV.to(acc);
  std::vector<Tensor> outputs;
  for (int64_t t = 0; t < T; ++t) {
    Tensor next = state;
    if (t > 0 && in.segments_BT.defined()) {
      const Tensor same = docs.number_BT.select(1, t) == docs.number_BT.select(1, t - 1);
      next = next * same.to(acc).view({B, 1, 1, 1});
    }
    if (in.gate_BTH.defined())
      next = next * in.gate_BTH.select(1, t).exp().unsqueeze(-1).unsqueeze(-1);
    for (int64_t m = t * n; m < (t + 1) * n; ++m) {
      const Tensor key = k.select(1, m).unsqueeze(-1);  // [B, H, K, 1]
      const Tensor rest = v.select(1, m).unsqueeze(-2) - at::matmul(key.transpose(-1, -2), next);
      next = next + key * (in.beta_BMH.select(1, m).unsqueeze(-1).unsqueeze(-1) * rest);
    }
    Tensor o = at::matmul(q.select(1, t).unsqueeze(-2), next).squeeze(-2);  // [B, H, V]
    if (docs.real_BT.defined()) {
      const Tensor real = docs.real_BT.select(1, t).view({B, 1, 1, 1});
      next = at::where(real, next, state);
      o = at::where(real.squeeze(-1), o, at::zeros({}, o.options()));
    }
    outputs.push_back(o);
    state = next;
  }
  return {at::stack(outputs, 1).to(in.v_BMHV.scalar_type()), state};
}

}  // namespace strata::ops
