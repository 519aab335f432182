#include "models/deltaproduct/config.h"

#include <cmath>

#include "core/config/visitor.h"
#include "core/text.h"

namespace strata {

DeltaProductConfig::DeltaProductConfig(const std::string& name) : family(name) {
  if (is_delta_net()) {
    num_hidden_layers = 24;
    num_heads = 16;
    expand_v = 1;
    use_output_gate = false;
  }
  if (family == "gated_deltanet") use_forget_gate = true;
}

int64_t DeltaProductConfig::head_k() const {
  if (!is_delta_net()) return head_dim;
  return static_cast<int64_t>(static_cast<double>(hidden_size) * expand_k) / num_heads;
}
int64_t DeltaProductConfig::head_v() const {
  if (!is_delta_net()) return static_cast<int64_t>(static_cast<double>(head_dim) * expand_v);
  return static_cast<int64_t>(static_cast<double>(hidden_size) * expand_v) / num_heads;
}
int64_t DeltaProductConfig::ffn_dim() const {
  if (intermediate_size) return *intermediate_size;
  const auto width = static_cast<int64_t>(static_cast<double>(hidden_size) * hidden_ratio * 2 / 3);
  return (width + 255) / 256 * 256;
}

void DeltaProductConfig::visit_mixer(ConfigVisitor& v) {
  v.field("num_heads", num_heads, at_least(1), "heads");
  if (is_delta_net()) {
    v.field("expand_k", expand_k, positive(), "width of all keys / hidden_size");
    v.field("expand_v", expand_v, positive(), "width of all values / hidden_size");
    v.field("use_beta", use_beta, "the strength of a write is learned; else it is 1");
    v.field("qk_norm", qk_norm, one_of({"l2", "sum"}),
            "queries and keys are divided by their length, or by their sum");
    v.field("qk_activation", qk_activation, one_of({"silu", "relu", "elu", "identity"}),
            "function of queries and keys (elu: elu + 1)");
    v.ignore("use_output_norm");  // the ecosystem's layer always has the norm
  } else {
    v.field("head_dim", head_dim, at_least(1), "width of a key");
    v.field("expand_v", expand_v, positive(), "width of a value / head_dim");
  }
  if (is_product()) {
    v.field("num_householder", num_householder, between(1, 64), "steps per token");
    v.field("use_forget_gate", use_forget_gate, "the state decays once per token");
    v.field("use_output_gate", use_output_gate, "outputs are multiplied by a gate");
    v.field("weight_layout", weight_layout, one_of({"joint", "lists"}),
            "how the steps' weights are called in files: k_proj, or k_projs.0, k_projs.1, ... as "
            "the paper's code has them");
  } else {
    v.field("use_gate", use_output_gate, "outputs are multiplied by a gate");
  }
  if (family == "gated_deltanet") {
    v.field("num_v_heads", num_v_heads, at_least(1), "= num_heads",
            "value heads; each query/key head serves as many value heads in a row");
  }
  v.field("allow_neg_eigval", allow_neg_eigval,
          "write strengths in (0, 2) instead of (0, 1): transitions may reflect");
  v.field("use_short_conv", use_short_conv, "causal convolution on queries, keys and values");
  v.field("conv_size", conv_size, between(1, 32), "taps of the short convolution");
  v.field("attn_mode", attn_mode, one_of({"chunk", "fused_chunk", "fused_recurrent"}),
          "the ecosystem's kernel; changes nothing here");
}

void DeltaProductConfig::visit(ConfigVisitor& v) {
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("hidden_size", hidden_size, at_least(1), "width of the residual stream");
  v.field("hidden_ratio", hidden_ratio, positive(),
          "feed-forward width = 2/3 hidden_ratio hidden_size, to the next multiple of 256");
  v.field("intermediate_size", intermediate_size, at_least(1), "from hidden_ratio",
          "width of the feed-forward layer");
  v.field("num_hidden_layers", num_hidden_layers, at_least(0), "number of blocks");
  visit_mixer(v);
  v.field("hidden_act", hidden_act, one_of({"swish", "silu"}),
          "activation of the feed-forward layer");
  v.field("max_position_embeddings", max_position_embeddings, at_least(1),
          "noted in config.json; the model has no limit");
  v.field("norm_eps", norm_eps, positive(), "epsilon of the norms");
  v.begin_section("attn", "blocks with softmax attention instead");
  attn.visit(v, hidden_size, num_hidden_layers);
  v.end_section();
  v.field("initializer_range", initializer_range, non_negative(),
          "standard deviation of initial weights");
  v.field("init_scheme", init_scheme, one_of({"fla", "paper"}),
          "paper: mixer weights start Xavier-uniform with gain 2^-2.5, convolutions uniform, "
          "down_proj uniform and divided by sqrt(2 num_hidden_layers)");
  v.field("tie_word_embeddings", tie_word_embeddings, "the head shares the embedding's weight");
  parts.visit(v, {"attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.b_proj", "attn.a_proj",
                  "attn.g_proj", "attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  for (const char* key :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "fuse_norm", "fuse_swiglu",
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
  check(v);
}

void DeltaProductConfig::check(ConfigVisitor& v) const {
  if (is_delta_net()) {
    for (const auto& [key, expand] :
         {std::pair<const char*, double>{"expand_k", expand_k}, {"expand_v", expand_v}}) {
      const auto width = static_cast<int64_t>(static_cast<double>(hidden_size) * expand);
      if (width < num_heads || width % num_heads != 0) {
        v.problem(key, cat(expand),
                  cat("a value for which num_heads = ", num_heads, " divides ", key,
                      " * hidden_size, now ", width));
      }
    }
    return;
  }
  const double width = static_cast<double>(head_dim) * expand_v;
  if (head_v() < 1 || std::abs(width - static_cast<double>(head_v())) > 1e-5 * width) {
    v.problem("expand_v", cat(expand_v),
              cat("a value for which expand_v * head_dim is a whole number, now ", width));
  }
  if (value_heads() % num_heads != 0) {
    v.problem("num_v_heads", cat(value_heads()), cat("multiples of num_heads = ", num_heads));
  }
}

}  // namespace strata
