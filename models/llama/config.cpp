#include "models/llama/config.h"

#include "core/config/visitor.h"
#include "core/text.h"

namespace strata {

void LlamaConfig::visit(ConfigVisitor& v) {
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("hidden_size", hidden_size, at_least(1), "width of the residual stream");
  v.field("intermediate_size", intermediate_size, at_least(1), "width of the feed-forward layer");
  v.field("num_hidden_layers", num_hidden_layers, at_least(0), "number of blocks");
  v.field("num_attention_heads", num_attention_heads, at_least(1), "query heads");
  v.field("num_key_value_heads", num_key_value_heads, at_least(1), "= num_attention_heads",
          "key/value heads; fewer than query heads is grouped-query attention");
  v.field("head_dim", head_width, at_least(2), "= hidden_size / num_attention_heads",
          "width of a head");
  v.field("max_position_embeddings", max_position_embeddings, at_least(1), "longest context");
  v.field("rms_norm_eps", rms_norm_eps, positive(), "epsilon of the norms");
  v.field("rope_theta", rope_theta, positive(), "base of the rotary frequencies");
  v.begin_section("rope_scaling", "frequency scaling for longer contexts");
  rope_scaling.visit(v);
  v.end_section();
  v.field("initializer_range", initializer_range, non_negative(),
          "standard deviation of initial weights");
  v.field("tie_word_embeddings", tie_word_embeddings, "the head shares the embedding's weight");
  v.field("attention_bias", attention_bias, "biases in q, k, v and o projections");
  v.field("mlp_bias", mlp_bias, "biases in the feed-forward projections");
  v.field("attention_dropout", attention_dropout, fraction_below_one(),
          "dropout of attention probabilities");
  v.field("hidden_act", hidden_act, one_of({"silu"}), "gate activation");
  parts.visit(v, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                  "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  for (const char* key :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "pretraining_tp", "rope_parameters"}) {
    v.ignore(key);
  }
  if (!head_width && hidden_size % num_attention_heads != 0) {
    v.problem("num_attention_heads", cat(num_attention_heads),
              cat("divisors of hidden_size = ", hidden_size), " (or give head_dim)");
  }
  if (num_attention_heads % kv_heads() != 0) {
    v.problem("num_key_value_heads", cat(kv_heads()),
              cat("divisors of num_attention_heads = ", num_attention_heads));
  }
  if (head_dim() % 2 != 0)
    v.problem("head_dim", cat(head_dim()), "an even number (rotary embedding turns pairs)");
}

}  // namespace strata
