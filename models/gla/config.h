#pragma once
// GLAConfig of the flash-linear-attention ecosystem: same keys, same defaults.
#include <cstdint>
#include <optional>
#include <string>

#include "models/parts/block_parts.h"
#include "models/parts/softmax_attention.h"

namespace strata {

class ConfigVisitor;

struct GlaConfig {
  int64_t vocab_size = 32000;
  int64_t hidden_size = 2048;
  double expand_k = 0.5;
  double expand_v = 1.0;
  double hidden_ratio = 4;
  std::optional<int64_t> intermediate_size;  // unset: from hidden_ratio
  int64_t num_hidden_layers = 24;
  int64_t num_heads = 4;
  std::optional<int64_t> num_kv_heads;  // unset: num_heads
  std::string feature_map = "none";
  std::string attn_mode = "chunk";
  bool use_short_conv = false;
  int64_t conv_size = 4;
  bool use_output_gate = true;
  std::optional<double> clamp_min;
  std::string hidden_act = "swish";
  int64_t max_position_embeddings = 2048;
  bool elementwise_affine = true;
  double norm_eps = 1e-6;
  HybridAttention attn;
  bool tie_word_embeddings = false;
  double initializer_range = 0.02;
  bool fuse_norm = true;  // only how the output norm is called in files
  std::string residual_init = "plain";
  BlockParts parts;

  // Not keys of the ecosystem's files: its models always have these.
  static constexpr int64_t kGateRank = 16;
  static constexpr double kGateNormalizer = 16;

  int64_t kv_heads() const { return num_kv_heads.value_or(num_heads); }
  int64_t key_dim() const {
    return static_cast<int64_t>(static_cast<double>(hidden_size) * expand_k);
  }
  int64_t value_dim() const {
    return static_cast<int64_t>(static_cast<double>(hidden_size) * expand_v);
  }
  int64_t head_k() const { return key_dim() / num_heads; }
  int64_t head_v() const { return value_dim() / num_heads; }
  int64_t ffn_dim() const;
  void visit(ConfigVisitor& v);
};

}  // namespace strata
