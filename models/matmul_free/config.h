#pragma once
// Configuration of the MatMul-free language model as its authors' config.json has it (model_type
// "hgrn_bit"): same keys, same defaults; the keys after intermediate_size are ours.
#include <cstdint>
#include <optional>
#include <string>

#include "core/ops/bit_linear.h"
#include "models/parts/block_parts.h"

namespace strata {

class ConfigVisitor;

struct MatmulFreeConfig {
  int64_t vocab_size = 32000;
  int64_t hidden_size = 2048;
  int64_t num_hidden_layers = 24;
  int64_t num_heads = 1;
  double expand_ratio = 1;
  double hidden_ratio = 4;
  std::optional<int64_t> intermediate_size;
  std::string attn_mode = "fused_recurrent";
  std::string hidden_act = "swish";
  bool use_short_conv = false;
  bool use_lower_bound = true;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;

  std::string output_gate = "released";
  double bit_norm_eps = 1e-6;
  int64_t act_bits = 8;
  std::string act_round = "half_even";
  bool ternary = true;
  bool exact_tp = false;
  BlockParts parts;

  int64_t channels() const;  // of the token mixer
  int64_t inner() const;     // of the feed-forward layer
  ops::BitOptions rows() const {
    return {bit_norm_eps, static_cast<int>(act_bits), ops::parse_act_round(act_round)};
  }
  void visit(ConfigVisitor& v);
};

}  // namespace strata
