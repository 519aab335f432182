#include "models/matmul_free/config.h"

#include <cmath>

#include "core/config/visitor.h"
#include "core/text.h"

namespace strata {

int64_t MatmulFreeConfig::channels() const {
  return static_cast<int64_t>(static_cast<double>(hidden_size) * expand_ratio);
}

int64_t MatmulFreeConfig::inner() const {
  if (intermediate_size) return *intermediate_size;
  const auto wanted = static_cast<int64_t>(static_cast<double>(hidden_size) * hidden_ratio * 2 / 3);
  return 256 * ((wanted + 255) / 256);
}

void MatmulFreeConfig::visit(ConfigVisitor& v) {
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("hidden_size", hidden_size, at_least(1), "width of the residual stream");
  v.field("num_hidden_layers", num_hidden_layers, at_least(0), "number of blocks");
  v.field("num_heads", num_heads, at_least(1),
          "heads of the mixer; without effect, because channels do not mix");
  v.field("expand_ratio", expand_ratio, positive(), "channels of the mixer / hidden_size");
  v.field("hidden_ratio", hidden_ratio, positive(), "used where intermediate_size is not given");
  v.field("intermediate_size", intermediate_size, at_least(1),
          "= 256 * ceil(hidden_size * hidden_ratio * 2 / 3 / 256)",
          "width of the feed-forward layer");
  v.field("attn_mode", attn_mode, one_of({"fused_recurrent"}), "form of the scan");
  v.field("hidden_act", hidden_act, one_of({"swish", "silu"}), "gate activation");
  v.field("use_short_conv", use_short_conv, "convolution before the gates: not supported");
  v.field("use_lower_bound", use_lower_bound,
          "forget gates of later layers stay above a learned bound");
  v.field("rms_norm_eps", rms_norm_eps, positive(), "epsilon of the norms outside linears");
  v.field("initializer_range", initializer_range, non_negative(),
          "standard deviation of initial weights outside the mixer");
  v.field("tie_word_embeddings", tie_word_embeddings, "not supported");
  v.field("output_gate", output_gate, one_of({"released", "fla"}),
          "released: norm(gate) * silu(state), as published weights need; fla: norm(state) * "
          "silu(gate)");
  v.field("bit_norm_eps", bit_norm_eps, positive(), "epsilon of the norms inside linears");
  v.field("act_bits", act_bits, between(2, 8), "bits of quantised activations");
  v.field("act_round", act_round, one_of({"half_even", "half_away", "none"}),
          "rounding of activations; none: they are not quantised");
  v.field("ternary", ternary, "false: weights are used as they are (for comparisons)");
  v.field("exact_tp", exact_tp, "sums over tp before they are scaled: not supported");
  parts.visit(v, {});
  for (const char* key :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "conv_size", "share_conv_kernel",
        "fuse_cross_entropy", "max_position_embeddings"}) {
    v.ignore(key);
  }
  if (use_short_conv) {
    v.problem("use_short_conv", "true", "false",
              " (the authors' layer cannot run with it, and no published weights have it)");
  }
  if (tie_word_embeddings) {
    v.problem("tie_word_embeddings", "true", "false",
              " (the head's weight is ternary, the embedding's is not)");
  }
  if (parts.linears.structured()) {
    v.problem("linear", parts.linears.kind, "dense", " (the linears of this family are ternary)");
  }
  if (exact_tp) {
    v.problem("exact_tp", "true", "false",
              " (sums of codes are exact within a rank; over tp the scaled results are added)");
  }
  if (channels() < 1 || channels() % num_heads != 0) {
    v.problem("num_heads", cat(num_heads),
              cat("divisors of hidden_size * expand_ratio = ", channels()));
  }
}

}  // namespace strata
