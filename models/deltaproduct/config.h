#pragma once
// Three families of the flash-linear-attention ecosystem whose mixer is the delta product, each
// with the keys and defaults of its config class: GatedDeltaProductConfig, DeltaNetConfig and
// GatedDeltaNetConfig.
#include <cstdint>
#include <optional>
#include <string>

#include "models/parts/block_parts.h"
#include "models/parts/softmax_attention.h"

namespace strata {

class ConfigVisitor;

struct DeltaProductConfig {
  // "gated_deltaproduct", "delta_net" or "gated_deltanet": which keys there are.
  std::string family;
  int64_t vocab_size = 32000;
  int64_t hidden_size = 2048;
  double hidden_ratio = 4;
  std::optional<int64_t> intermediate_size;  // unset: from hidden_ratio
  int64_t num_hidden_layers = 21;
  int64_t num_heads = 6;
  std::optional<int64_t> num_v_heads;  // gated_deltanet; unset: num_heads
  int64_t head_dim = 256;              // not of delta_net
  double expand_k = 1;                 // delta_net
  double expand_v = 2;
  int64_t num_householder = 1;  // gated_deltaproduct; the others have one step
  bool use_forget_gate = false;
  bool allow_neg_eigval = false;
  bool use_output_gate = true;  // "use_gate" of the other two
  bool use_beta = true;         // delta_net
  std::string qk_norm = "l2", qk_activation = "silu";
  bool use_short_conv = true;
  int64_t conv_size = 4;
  std::string attn_mode = "chunk";
  std::string hidden_act = "swish";
  int64_t max_position_embeddings = 2048;
  double norm_eps = 1e-6;
  HybridAttention attn;
  bool tie_word_embeddings = false;
  double initializer_range = 0.02;
  std::string init_scheme = "fla";
  std::string weight_layout = "joint";
  BlockParts parts;

  explicit DeltaProductConfig(const std::string& family);
  void visit(ConfigVisitor& v);

  int64_t steps() const { return num_householder; }
  int64_t value_heads() const { return num_v_heads.value_or(num_heads); }
  int64_t head_k() const;
  int64_t head_v() const;
  int64_t ffn_dim() const;
  bool paper_init() const { return init_scheme == "paper"; }

 private:
  bool is_delta_net() const { return family == "delta_net"; }
  bool is_product() const { return family == "gated_deltaproduct"; }
  void visit_mixer(ConfigVisitor& v);
  void check(ConfigVisitor& v) const;
};

}  // namespace strata
