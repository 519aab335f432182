#include "models/hydra/config.h"

#include <algorithm>

#include "core/config/visitor.h"
#include "core/ops/depthwise_conv.h"
#include "core/text.h"

namespace strata {

namespace hydra_config_detail {

const std::vector<std::string> kLargeLinears = {"mixer.in_proj_z", "mixer.in_proj_x",
                                                "mixer.out_proj"};

}  // namespace hydra_config_detail

using hydra_config_detail::kLargeLinears;

LinearOptions HydraConfig::linear(const std::string& name, const LinearOptions& options) const {
  const std::string in_block = cat("mixer.", name);
  const bool large =
      std::find(kLargeLinears.begin(), kLargeLinears.end(), in_block) != kLargeLinears.end();
  return large ? parts.linear(in_block, options) : options;
}

void HydraConfig::visit(ConfigVisitor& v) {
  v.field("matrix_mixer_type", matrix_mixer_type, one_of({"hydra"}), "the mixer of the blocks");
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("hidden_size", hidden_size, at_least(1), "width of the residual stream");
  v.field("num_hidden_layers", num_hidden_layers, at_least(0), "number of blocks");
  v.field("d_state", d_state, at_least(1), "state width N of a head");
  v.field("d_conv", d_conv, between(1, ops::kMostTaps), "taps of the short convolution, odd");
  v.field("conv_init", conv_init, positive(), "= 1 / sqrt(d_conv)",
          "initial weights of the convolution lie within -conv_init..conv_init");
  v.field("expand", expand, at_least(1), "inner width = expand * hidden_size");
  v.field("headdim", headdim, at_least(1), "width of a head");
  v.field("ngroups", ngroups, at_least(1), "groups of heads that share B and C");
  v.field("dt_min", dt_min, positive(), "smallest initial step size");
  v.field("dt_max", dt_max, positive(), "largest initial step size");
  v.field("dt_init_floor", dt_init_floor, positive(), "initial step sizes are at least this");
  v.field("dt_limit", dt_limit, non_negative(),
          "least and most that a step size may be; empty: no limit");
  v.field("learnable_init_states", learnable_init_states,
          "the states before the first and after the last token are learned");
  v.field("activation", activation, one_of({"swish", "silu"}), "after the short convolution");
  v.field("bias", bias, "biases in the projections");
  v.field("conv_bias", conv_bias, "bias in the short convolution");
  v.field("chunk_size", chunk_size, at_least(1),
          "tokens of a chunk of the scans, at most 64 here; results do not depend on it");
  v.field("is_prenorm", is_prenorm, "h + mixer(norm(h)) instead of norm(h + mixer(h))");
  v.field("use_position_embeddings", use_position_embeddings, "learned positions");
  v.field("max_position_embeddings", max_position_embeddings, at_least(1),
          "longest context, with learned positions only");
  v.field("type_vocab_size", type_vocab_size, at_least(1), "token types; all tokens are of type 0");
  v.field("pad_token_id", pad_token_id, at_least(-1),
          "look-ups of this id do not train its embedding; -1: none");
  v.field("hidden_act", hidden_act, one_of({"gelu"}), "activation of the head's transform");
  v.field("layer_norm_eps", layer_norm_eps, positive(),
          "epsilon of the norms outside blocks (inside: 1e-5)");
  v.field("hidden_dropout_prob", hidden_dropout_prob, fraction_below_one(),
          "dropout of the embedding's output");
  v.field("initializer_range", initializer_range, non_negative(),
          "standard deviation of initial weights");
  v.field("norm_groups", norm_groups, at_least(1),
          "channels are normalised in this many groups of heads");
  v.field("mask_pad", mask_pad,
          "padding is inert; false: it enters the scans, as in the authors' code");
  parts.visit(v, kLargeLinears);
  for (const char* key :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "num_attention_heads", "intermediate_size",
        "attention_probs_dropout_prob", "position_embedding_type", "use_mem_eff_path",
        "is_data_dependent", "qk_dim", "gradient_checkpointing", "classifier_dropout",
        "tie_word_embeddings", "alibi_starting_size"}) {
    v.ignore(key);
  }
  if (d_conv % 2 == 0) v.problem("d_conv", cat(d_conv), "an odd number");
  if (inner() % headdim != 0) {
    v.problem("headdim", cat(headdim), cat("divisors of expand * hidden_size = ", inner()));
    return;
  }
  if (heads() % ngroups != 0) {
    v.problem("ngroups", cat(ngroups), cat("divisors of the ", heads(), " heads"));
  }
  if (heads() % norm_groups != 0) {
    v.problem("norm_groups", cat(norm_groups), cat("divisors of the ", heads(), " heads"));
  }
  if (dt_max < dt_min) v.problem("dt_max", number_text(dt_max), cat("at least dt_min = ", dt_min));
  if (!dt_limit.empty() && (dt_limit.size() != 2 || dt_limit[1] < dt_limit[0])) {
    v.problem("dt_limit", cat(dt_limit.size(), " numbers"), "two numbers, the smaller first");
  }
  if (pad_token_id >= vocab_size) {
    v.problem("pad_token_id", cat(pad_token_id), cat("-1..", vocab_size - 1));
  }
  if (parts.residual.kind != "plain") {
    v.problem("residual", parts.residual.kind, "plain",
              " (hydra's blocks have one sub-layer, normalised after the sum)");
  }
}

}  // namespace strata
