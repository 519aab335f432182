#pragma once
// LlamaConfig of the HF ecosystem: same keys, same defaults (transformers' LlamaConfig class).
#include <cstdint>
#include <optional>
#include <string>

#include "core/ops/rope.h"
#include "models/parts/block_parts.h"

namespace strata {

class ConfigVisitor;

struct LlamaConfig {
  int64_t vocab_size = 32000;
  int64_t hidden_size = 4096;
  int64_t intermediate_size = 11008;
  int64_t num_hidden_layers = 32;
  int64_t num_attention_heads = 32;
  std::optional<int64_t> num_key_value_heads;  // unset: num_attention_heads
  std::optional<int64_t> head_width;  // key "head_dim"; unset: hidden_size / num_attention_heads
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  ops::RopeScaling rope_scaling;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  double attention_dropout = 0.0;
  std::string hidden_act = "silu";
  BlockParts parts;

  int64_t kv_heads() const { return num_key_value_heads.value_or(num_attention_heads); }
  int64_t head_dim() const { return head_width.value_or(hidden_size / num_attention_heads); }
  void visit(ConfigVisitor& v);
};

}  // namespace strata
