#include "models/parts/softmax_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/config/visitor.h"
#include "core/ops/attention.h"
#include "core/ops/attention_mask.h"
#include "core/ops/linear.h"
#include "core/ops/rope.h"
#include "core/text.h"

namespace strata {

namespace softmax_attention_detail {

// Every query sees itself and the `window` - 1 keys before it, as far as causal_attention would let
// it.
Tensor windowed_attention(const Tensor& q_BTHK, const Tensor& k_BSGK, const Tensor& v_BSGK,
                          const Tensor& segments_BT, double scale, int64_t window) {
  const int64_t T = q_BTHK.size(1), S = k_BSGK.size(1), H = q_BTHK.size(2);
  if (window >= S) return ops::causal_attention(q_BTHK, k_BSGK, v_BSGK, segments_BT, scale);
  ops::attention_detail::check_shapes(q_BTHK, k_BSGK, v_BSGK, segments_BT, {});
  const auto options = at::TensorOptions().dtype(at::kLong).device(q_BTHK.device());
  const Tensor query = at::arange(S - T, S, options).unsqueeze(1);
  const Tensor near = (query - at::arange(S, options)).lt(window);
  const Tensor mask =
      ops::attention_detail::visible_pairs(segments_BT, T, S, q_BTHK.device()).logical_and(near);
  const Tensor k = ops::attention_detail::repeat_heads(k_BSGK, H),
               v = ops::attention_detail::repeat_heads(v_BSGK, H);
  const Tensor o =
      at::scaled_dot_product_attention(q_BTHK.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                       mask, /*dropout_p=*/0.0, false, scale);
  return o.transpose(1, 2).contiguous();
}

}  // namespace softmax_attention_detail

void HybridAttention::visit(ConfigVisitor& v, int64_t hidden_size, int64_t blocks) {
  const Allowed<double> block_number{
      cat("numbers of blocks, from 0 to ", blocks - 1), [blocks](const double& value) {
        return value == std::floor(value) && value >= 0 && value < static_cast<double>(blocks);
      }};
  v.field("layers", layers, block_number, "numbers of the blocks, counted from 0");
  v.field("num_heads", num_heads, at_least(0), "query heads; needed where layers are given");
  v.field("num_kv_heads", num_kv_heads, at_least(1), "= attn.num_heads", "key/value heads");
  v.field("qkv_bias", qkv_bias, "biases in q, k and v projections");
  v.field("window_size", window_size, at_least(1), "all", "last tokens that a token sees");
  v.field("rope_theta", rope_theta, positive(), "base of the rotary frequencies");
  v.ignore("qk_norm");
  if (layers.empty()) return;
  if (num_heads < 1 || hidden_size % num_heads != 0 || hidden_size / num_heads % 2 != 0) {
    v.problem(
        "num_heads", cat(num_heads),
        cat("divisors of hidden_size = ", hidden_size, " that leave an even width of a head"));
  } else if (num_heads % kv_heads() != 0) {
    v.problem("num_kv_heads", cat(kv_heads()), cat("divisors of num_heads = ", num_heads));
  }
}

double HybridAttention::flops_per_token(int64_t hidden_size, int64_t time) const {
  const int64_t seen = std::min(time, window_size.value_or(time));
  return static_cast<double>(2 * parameters(hidden_size) + 4 * hidden_size * seen);
}

void HybridAttention::write(nlohmann::ordered_json& config) const {
  if (layers.empty()) {
    config["attn"] = nullptr;
    return;
  }
  nlohmann::ordered_json j;
  j["layers"] = std::vector<int64_t>(layers.begin(), layers.end());
  j["num_heads"] = num_heads;
  j["num_kv_heads"] = kv_heads();
  j["qkv_bias"] = qkv_bias;
  j["window_size"] = window_size ? nlohmann::ordered_json(*window_size) : nullptr;
  j["rope_theta"] = rope_theta;
  config["attn"] = j;
}

bool HybridAttention::has(int64_t block) const {
  return std::find(layers.begin(), layers.end(), static_cast<double>(block)) != layers.end();
}

int64_t HybridAttention::parameters(int64_t hidden_size) const {
  const int64_t kv = kv_heads() * (hidden_size / num_heads);
  return 2 * hidden_size * (hidden_size + kv) + (qkv_bias ? hidden_size + 2 * kv : 0);
}

SoftmaxAttention::SoftmaxAttention(const HybridAttention& config, int64_t hidden_size,
                                   const Options& options, const ParallelLayout& layout)
    : Region(layout), c_(config), K_(hidden_size / config.num_heads) {
  const auto make = [&](const char* name, int64_t in, int64_t out, const ShardSpec& shard,
                        bool bias) {
    LinearOptions linear_options = options(name);
    linear_options.bias = bias;
    return linear(name, in, out, shard, linear_options);
  };
  const int64_t kv = c_.kv_heads() * K_;
  q_ = make("q_proj", hidden_size, hidden_size, split_out(K_), c_.qkv_bias);
  k_ = make("k_proj", hidden_size, kv, split_or_replicate(K_), c_.qkv_bias);
  v_ = make("v_proj", hidden_size, kv, split_or_replicate(K_), c_.qkv_bias);
  o_ = make("o_proj", hidden_size, hidden_size, split_in(K_), false);
}

Tensor SoftmaxAttention::forward(const Tensor& x_BTD, const Batch& batch) {
  const auto table = ops::rope_table(c_.rope_theta, K_, 0, {}, batch.length());
  const Tensor q_BTHK = ops::rope(ops::split_heads(q_(x_BTD), K_), batch.positions, table);
  const Tensor k_BSGK =
      extend(batch, "k", ops::rope(ops::split_heads(k_(x_BTD), K_), batch.positions, table));
  const Tensor v_BSGK = extend(batch, "v", ops::split_heads(v_(x_BTD), K_));
  const double scale = 1.0 / std::sqrt(static_cast<double>(K_));
  const int64_t window = c_.window_size.value_or(k_BSGK.size(1));
  return o_(ops::merge_heads(softmax_attention_detail::windowed_attention(
      q_BTHK, k_BSGK, v_BSGK, batch.segments, scale, window)));
}

}  // namespace strata
