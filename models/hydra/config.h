#pragma once
// BertConfig of the authors' code with matrix_mixer_type = "hydra": same keys and defaults, and two
// keys of our own (norm_groups, mask_pad).
#include <cstdint>
#include <optional>
#include <vector>

#include "models/parts/block_parts.h"

namespace strata {

class ConfigVisitor;

struct HydraConfig {
  std::string matrix_mixer_type = "hydra";
  int64_t vocab_size = 30522;
  int64_t hidden_size = 768;
  int64_t num_hidden_layers = 12;
  int64_t d_state = 64;
  int64_t d_conv = 7;
  std::optional<double> conv_init;
  int64_t expand = 2;
  int64_t headdim = 64;
  int64_t ngroups = 1;
  double dt_min = 1e-3, dt_max = 0.1, dt_init_floor = 1e-4;
  std::vector<double> dt_limit;  // {least, most}; empty: none
  bool learnable_init_states = false;
  std::string activation = "swish";
  bool bias = false;
  bool conv_bias = true;
  int64_t chunk_size = 256;
  bool is_prenorm = false;
  bool use_position_embeddings = false;
  int64_t max_position_embeddings = 512;
  int64_t type_vocab_size = 2;
  int64_t pad_token_id = 0;
  std::string hidden_act = "gelu";
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1;
  double initializer_range = 0.02;
  int64_t norm_groups = 1;
  bool mask_pad = true;
  BlockParts parts;

  int64_t inner() const { return expand * hidden_size; }  // E
  int64_t heads() const { return inner() / headdim; }     // H
  int64_t keys() const { return 4 * ngroups * d_state; }  // channels of B and C, both ways
  // Of the mixer's linears; the large ones can be structured.
  LinearOptions linear(const std::string& name, const LinearOptions& options) const;
  bool whole_in_proj() const {
    const auto plain = [&](const char* name) {
      return !parts.linears.targeted(name) && !parts.linears.low_rank_anywhere(name);
    };
    return plain("mixer.in_proj_z") && plain("mixer.in_proj_x");
  }
  void visit(ConfigVisitor& v);
};

}  // namespace strata
