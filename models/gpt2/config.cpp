#include "models/gpt2/config.h"

#include "core/config/visitor.h"
#include "core/ops/activation.h"
#include "core/text.h"

namespace strata {

void Gpt2Config::visit(ConfigVisitor& v) {
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("n_positions", n_positions, at_least(1),
          "rows of the position table: the longest context");
  v.field("n_embd", n_embd, at_least(1), "width of the residual stream");
  v.field("n_layer", n_layer, at_least(0), "number of blocks");
  v.field("n_head", n_head, at_least(1), "attention heads");
  v.field("n_inner", n_inner, at_least(1), "= 4 * n_embd", "width of the feed-forward layer");
  v.field("activation_function", activation_function, one_of(ops::activation_names()),
          "feed-forward activation");
  v.field("resid_pdrop", resid_pdrop, fraction_below_one(),
          "dropout after attention and feed-forward");
  v.field("embd_pdrop", embd_pdrop, fraction_below_one(), "dropout of the embeddings");
  v.field("attn_pdrop", attn_pdrop, fraction_below_one(), "dropout of attention probabilities");
  v.field("layer_norm_epsilon", layer_norm_epsilon, positive(), "epsilon of the norms");
  v.field("initializer_range", initializer_range, non_negative(),
          "standard deviation of initial weights");
  v.field("scale_attn_weights", scale_attn_weights, "scores are divided by sqrt(head width)");
  v.field("scale_attn_by_inverse_layer_idx", scale_attn_by_inverse_layer_idx,
          "scores are divided by block number + 1 too");
  v.field("tie_word_embeddings", tie_word_embeddings, "the head shares the embedding's weight");
  v.field("bias", bias, "biases in the linears and norms of the blocks and in the last norm");
  parts.visit(v, {"attn.c_attn", "attn.c_proj", "mlp.fc1", "mlp.fc2"},
              {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"});
  for (const char* key :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "reorder_and_upcast_attn",
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
        "summary_use_proj", "n_ctx", "task_specific_params", "add_cross_attention"}) {
    v.ignore(key);
  }
  if (n_embd % n_head != 0) v.problem("n_head", cat(n_head), cat("divisors of n_embd = ", n_embd));
}

}  // namespace strata
