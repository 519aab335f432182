// Chunks of 64 tokens, all at once but for the scan over states. Scores within a chunk come from
// halves: of a block of 2s tokens the later half sees the earlier one through decays taken from
// their border, both at most one; then each half by itself, down to single tokens.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

#include "core/ops/gla.h"

namespace strata::ops {

namespace gla_composite_detail {

constexpr int64_t kChunk = 64;

// [B, T] bool: tokens that restart the state, and padding; undefined without segments.
struct Tokens {
  Tensor restart, padding;
};
Tokens tokens_of(const Tensor& segments_BT, at::Device device) {
  if (!segments_BT.defined()) return {};
  const int64_t B = segments_BT.size(0), T = segments_BT.size(1);
  const Tensor given = segments_BT.to(at::kCPU, at::kLong).contiguous();
  Tensor restart = at::zeros({B, T}, at::TensorOptions().dtype(at::kBool));
  const int64_t* segment = given.const_data_ptr<int64_t>();
  bool* out = restart.mutable_data_ptr<bool>();
  for (int64_t b = 0; b < B; ++b) {
    int64_t present = -1;
    for (int64_t t = b * T; t < (b + 1) * T; ++t) {
      if (segment[t] < 0) continue;
      out[t] = present >= 0 && segment[t] != present;
      present = segment[t];
    }
  }
  return {restart.to(device), given.lt(0).to(device)};
}

Tensor repeat_heads(const Tensor& x_BTGW, int64_t heads) {
  const int64_t G = x_BTGW.size(2);
  if (G == heads) return x_BTGW;
  auto shape = x_BTGW.sizes().vec();
  shape.insert(shape.begin() + 3, heads / G);
  const Tensor repeated = x_BTGW.unsqueeze(3).expand(shape);
  return repeated.reshape({shape[0], shape[1], heads, shape[4]});
}

struct Operands {
  Tensor q, k, v, g;        // [B, T, H, .], accumulate dtype; zero where padded or restarted
  Tensor restart, padding;  // [B, T] or undefined
  Tensor state;             // [B, H, K, V]
};
Operands prepare(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                 const Tensor& segments, const Tensor& state, double scale) {
  const auto acc = accumulate_dtype(q.scalar_type());
  const int64_t H = q.size(2);
  Operands o{q.to(acc) * scale,
             repeat_heads(k.to(acc), H),
             repeat_heads(v.to(acc), H),
             repeat_heads(g.to(acc), H),
             {},
             {},
             {}};
  const Tokens tokens = tokens_of(segments, q.device());
  if (tokens.padding.defined()) {
    const Tensor padding = tokens.padding.unsqueeze(-1).unsqueeze(-1);
    o.q = o.q.masked_fill(padding, 0);
    o.k = o.k.masked_fill(padding, 0);
    o.v = o.v.masked_fill(padding, 0);
    o.g = o.g.masked_fill(padding.logical_or(tokens.restart.unsqueeze(-1).unsqueeze(-1)), 0);
    o.restart = tokens.restart;
    o.padding = tokens.padding;
  }
  o.state = state.defined() ? state.to(acc)
                            : at::zeros({q.size(0), H, q.size(3), v.size(3)}, o.q.options());
  return o;
}

// [B, T, H, W] -> [B, H, chunks, 64, W], zeros behind the last token.
Tensor chunks_of(const Tensor& x_BTHW) {
  const int64_t T = x_BTHW.size(1), padded = (T + kChunk - 1) / kChunk * kChunk;
  const Tensor x = at::constant_pad_nd(x_BTHW, {0, 0, 0, 0, 0, padded - T}).transpose(1, 2);
  return x.reshape({x.size(0), x.size(1), padded / kChunk, kChunk, x.size(3)});
}

// q k^T with decays, lower triangle, [..., 64, 64]; sum: inclusive sums of g within the chunk.
Tensor chunk_scores(const Tensor& q, const Tensor& k, const Tensor& sum) {
  Tensor scores = (q * k).sum(-1).unsqueeze(-1).unsqueeze(-1);  // [..., blocks, size, size]
  const auto halves = [](const Tensor& x, int64_t size) {
    auto shape = x.sizes().vec();
    const int64_t width = shape.back();
    shape.resize(shape.size() - 2);
    shape.insert(shape.end(), {kChunk / (2 * size), 2, size, width});
    return x.reshape(shape);
  };
  for (int64_t size = 1; size < kChunk; size *= 2) {
    const Tensor s = halves(sum, size);
    const Tensor early = s.select(-3, 0), late = s.select(-3, 1);
    const Tensor border = early.narrow(-2, size - 1, 1);
    const Tensor queries = halves(q, size).select(-3, 1) * (late - border).exp();
    const Tensor keys = halves(k, size).select(-3, 0) * (border - early).exp();
    const Tensor block = at::matmul(queries, keys.transpose(-1, -2));
    auto shape = scores.sizes().vec();
    shape[shape.size() - 3] /= 2;
    shape.insert(shape.end() - 2, 2);
    const Tensor pair = scores.reshape(shape);
    scores = at::cat({at::cat({pair.select(-3, 0), at::zeros_like(block)}, -1),
                      at::cat({block, pair.select(-3, 1)}, -1)},
                     -2);
  }
  return scores.squeeze(-3);
}

}  // namespace gla_composite_detail

GlaResult gla_composite(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGV,
                        const Tensor& g_BTGK, const Tensor& segments_BT,
                        const Tensor& initial_state_BHKV, double scale) {
  using namespace gla_composite_detail;
  const Operands in =
      prepare(q_BTHK, k_BTGK, v_BTGV, g_BTGK, segments_BT, initial_state_BHKV, scale);
  const int64_t B = q_BTHK.size(0), T = q_BTHK.size(1), H = q_BTHK.size(2), V = v_BTGV.size(3);
  if (in.q.numel() == 0 || V == 0) {
    // Sums of nothing, which keep the inputs in the graph.
    const Tensor nothing = (in.q.sum() + in.k.sum() + in.g.sum() + in.v.sum()) * 0;
    return {(at::zeros({B, T, H, V}, in.q.options()) + nothing).to(q_BTHK.scalar_type()),
            in.state + nothing};
  }
  const Tensor q = chunks_of(in.q), k = chunks_of(in.k), v = chunks_of(in.v);
  const Tensor sum = at::cumsum(chunks_of(in.g), -2), last = sum.narrow(-2, kChunk - 1, 1);
  Tensor scores = chunk_scores(q, k, sum);
  Tensor queries = q * sum.exp(), keys = k * (last - sum).exp();
  Tensor decay = last.exp().transpose(-1, -2);  // [B, H, chunks, K, 1]
  if (in.restart.defined()) {
    // How often the state restarted since the chunk's start: tokens of other counts are unseen.
    const Tensor restarts = in.restart.to(at::kLong).unsqueeze(-1).unsqueeze(-1);
    const Tensor count = at::cumsum(chunks_of(restarts), -2);  // [B, 1, chunks, 64, 1]
    const Tensor total = count.narrow(-2, kChunk - 1, 1);
    scores = scores.masked_fill(count.ne(count.transpose(-1, -2)), 0);
    queries = queries.masked_fill(count.ne(0), 0);
    keys = keys.masked_fill(count.ne(total), 0);
    decay = decay.masked_fill(total.ne(0), 0);
  }
  const Tensor update = at::matmul(keys.transpose(-1, -2), v);
  Tensor state = in.state;
  std::vector<Tensor> states;
  for (int64_t c = 0; c < update.size(2); ++c) {
    states.push_back(state);
    state = state * decay.select(2, c) + update.select(2, c);
  }
  const Tensor o = at::matmul(scores, v) + at::matmul(queries, at::stack(states, 2));
  const Tensor o_BTHV = o.reshape({B, H, -1, V}).narrow(2, 0, T).transpose(1, 2).contiguous();
  return {o_BTHV.to(q_BTHK.scalar_type()), state};
}

GlaResult gla_recurrent(const Tensor& q_BTHK, const Tensor& k_BTGK, const Tensor& v_BTGV,
                        const Tensor& g_BTGK, const Tensor& segments_BT,
                        const Tensor& initial_state_BHKV, double scale) {
  using namespace gla_composite_detail;
  const Operands in =
      prepare(q_BTHK, k_BTGK, v_BTGV, g_BTGK, segments_BT, initial_state_BHKV, scale);
  const int64_t B = q_BTHK.size(0), T = q_BTHK.size(1), H = q_BTHK.size(2), V = v_BTGV.size(3);
  Tensor state = in.state;
  std::vector<Tensor> outputs;
  for (int64_t t = 0; t < T; ++t) {
    Tensor decay = in.g.select(1, t).exp();
    if (in.restart.defined()) {
      decay = decay.masked_fill(in.restart.select(1, t).view({B, 1, 1}), 0);
    }
    state = state * decay.unsqueeze(-1) +
            in.k.select(1, t).unsqueeze(-1) * in.v.select(1, t).unsqueeze(-2);
    outputs.push_back((in.q.select(1, t).unsqueeze(-1) * state).sum(-2));
  }
  const Tensor o = T > 0 ? at::stack(outputs, 1) : at::zeros({B, T, H, V}, in.q.options());
  return {o.to(q_BTHK.scalar_type()), state};
}

}  // namespace strata::ops
