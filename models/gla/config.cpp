#include "models/gla/config.h"

#include "core/config/visitor.h"
#include "core/text.h"
#include "models/parts/feature_map.h"

namespace strata {

int64_t GlaConfig::ffn_dim() const {
  if (intermediate_size) return *intermediate_size;
  const auto width = static_cast<int64_t>(static_cast<double>(hidden_size) * hidden_ratio * 2 / 3);
  return (width + 255) / 256 * 256;
}

void GlaConfig::visit(ConfigVisitor& v) {
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("hidden_size", hidden_size, at_least(1), "width of the residual stream");
  v.field("expand_k", expand_k, positive(), "width of all keys / hidden_size");
  v.field("expand_v", expand_v, positive(), "width of all values / hidden_size");
  v.field("hidden_ratio", hidden_ratio, positive(),
          "feed-forward width = 2/3 hidden_ratio hidden_size, to the next multiple of 256");
  v.field("intermediate_size", intermediate_size, at_least(1), "from hidden_ratio",
          "width of the feed-forward layer");
  v.field("num_hidden_layers", num_hidden_layers, at_least(0), "number of blocks");
  v.field("num_heads", num_heads, at_least(1), "query heads");
  v.field("num_kv_heads", num_kv_heads, at_least(1), "= num_heads",
          "key/value/decay heads; each serves as many query heads in a row");
  v.field("feature_map", feature_map, one_of(feature_map_names()), "function of queries and keys");
  v.field("attn_mode", attn_mode, one_of({"chunk", "fused_chunk", "fused_recurrent"}),
          "the ecosystem's kernel; changes nothing here");
  v.field("use_short_conv", use_short_conv,
          "causal convolution and SiLU on queries, keys and values");
  v.field("conv_size", conv_size, between(1, 32), "taps of the short convolution");
  v.field("use_output_gate", use_output_gate, "outputs are multiplied by a gate");
  v.field("clamp_min", clamp_min, any_number(), "no bound", "least log decay of a token");
  v.field("hidden_act", hidden_act, one_of({"swish"}), "activation of gate and feed-forward layer");
  v.field("max_position_embeddings", max_position_embeddings, at_least(1),
          "noted in config.json; the model has no limit");
  v.field("elementwise_affine", elementwise_affine, "the output norm has weights");
  v.field("norm_eps", norm_eps, positive(), "epsilon of the norms");
  v.begin_section("attn", "blocks with softmax attention instead");
  attn.visit(v, hidden_size, num_hidden_layers);
  v.end_section();
  v.field("initializer_range", initializer_range, non_negative(),
          "standard deviation of initial weights");
  v.field("tie_word_embeddings", tie_word_embeddings, "the head shares the embedding's weight");
  v.field("fuse_norm", fuse_norm, "how the output norm is called in the ecosystem's files");
  v.field("residual_init", residual_init, one_of({"plain", "rescale"}),
          "rescale: o_proj and down_proj start uniform, divided by sqrt(2 num_hidden_layers)");
  parts.visit(v,
              {"attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.g_proj", "attn.gk_proj.0",
               "attn.gk_proj.1", "attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  for (const char* key :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "use_gk", "use_gv", "fuse_swiglu",
        "fuse_cross_entropy", "fuse_linear_cross_entropy"}) {
    v.ignore(key);
  }
  bool use_l2warp = false;
  std::optional<int64_t> attnres_block_size;
  v.field("use_l2warp", use_l2warp, "not built: false");
  v.field("attnres_block_size", attnres_block_size, any_integer(), "none", "not built");
  if (use_l2warp) v.problem("use_l2warp", "true", "false", " (this loss term is not built)");
  if (attnres_block_size) {
    v.problem("attnres_block_size", cat(*attnres_block_size), "null",
              " (attention over residuals is not built)");
  }
  if (num_heads % kv_heads() != 0) {
    v.problem("num_kv_heads", cat(kv_heads()), cat("divisors of num_heads = ", num_heads));
  }
  for (const auto& [key, width] :
       {std::pair<const char*, int64_t>{"expand_k", key_dim()}, {"expand_v", value_dim()}}) {
    if (width < num_heads || width % num_heads != 0) {
      v.problem(key, cat(key == std::string("expand_k") ? expand_k : expand_v),
                cat("a value for which num_heads = ", num_heads, " divides ", key,
                    " * hidden_size, now ", width));
    }
  }
}

}  // namespace strata
