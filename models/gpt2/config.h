#pragma once
// GPT2Config of the HF ecosystem: same keys, same defaults (transformers' GPT2Config class).
#include <cstdint>
#include <optional>
#include <string>

#include "models/parts/block_parts.h"

namespace strata {

class ConfigVisitor;

struct Gpt2Config {
  int64_t vocab_size = 50257;
  int64_t n_positions = 1024;
  int64_t n_embd = 768;
  int64_t n_layer = 12;
  int64_t n_head = 12;
  std::optional<int64_t> n_inner;  // unset: 4 * n_embd
  std::string activation_function = "gelu_new";
  double resid_pdrop = 0.1, embd_pdrop = 0.1, attn_pdrop = 0.1;
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  bool scale_attn_weights = true;
  bool scale_attn_by_inverse_layer_idx = false;
  bool tie_word_embeddings = true;
  bool bias = true;  // of linears and norms; nanoGPT's key
  BlockParts parts;

  // The feed-forward layer's linears are called c_fc and c_proj; where they are structured in every
  // block, fc1 and fc2, as in the checkpoints of such models.
  bool plain_mlp() const {
    return !parts.linears.targeted("mlp.fc1") && !parts.linears.targeted("mlp.fc2");
  }
  int64_t inner() const { return n_inner.value_or(4 * n_embd); }
  void visit(ConfigVisitor& v);
};

}  // namespace strata
