#include "tests/support/tiny_models.h"

#include <ATen/ops/empty.h>

#include "core/rng.h"
#include "core/text.h"

namespace strata::testing {

const std::vector<TinyModel>& tiny_models() {
  static const std::vector<TinyModel> models = [] {
    std::vector<TinyModel> out;
    ModelOptions plain;
    plain.head_chunk_tokens = 7;  // several chunks, the last one shorter
    ModelOptions smooth = plain;
    smooth.loss.label_smoothing = 0.1;
    smooth.loss.z_loss = 1e-3;
    out.push_back(
        {"llama_gqa_tied",
         R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24,
      "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-5,
      "initializer_range": 0.2, "tie_word_embeddings": true, "max_position_embeddings": 64})",
         smooth});
    out.push_back(
        {"llama_bias",
         R"({"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 40,
      "num_hidden_layers": 2, "num_attention_heads": 4, "attention_bias": true, "mlp_bias": true, "attention_dropout": 0.1,
      "initializer_range": 0.2, "max_position_embeddings": 64, "rope_scaling": {"rope_type": "linear", "factor": 2.0}})",
         plain});
    out.push_back(
        {"gpt2_dropout",
         R"({"model_type": "gpt2", "vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 2,
      "n_head": 4, "n_inner": 48, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "initializer_range": 0.2})",
         smooth});
    out.push_back(
        {"gpt2_untied",
         R"({"model_type": "gpt2", "vocab_size": 40, "n_positions": 32, "n_embd": 32, "n_layer": 1,
      "n_head": 4, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "initializer_range": 0.2, "tie_word_embeddings": false,
      "activation_function": "relu", "scale_attn_by_inverse_layer_idx": true})",
         plain});
    out.push_back(
        {"llama_deep",
         R"({"model_type": "llama", "vocab_size": 37, "hidden_size": 32, "intermediate_size": 24,
      "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "rms_norm_eps": 1e-5,
      "initializer_range": 0.2, "tie_word_embeddings": true, "max_position_embeddings": 64})",
         plain});
    out.push_back({"gla_conv_kv",
                   R"({"model_type": "gla", "vocab_size": 61, "hidden_size": 32, "expand_k": 0.75,
      "num_heads": 8, "num_kv_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2, "use_short_conv": true,
      "conv_size": 3, "clamp_min": -0.06, "feature_map": "elu_p1", "norm_eps": 1e-2, "initializer_range": 0.2, "tie_word_embeddings": true})",
                   smooth});
    out.push_back({"gla_hybrid",
                   R"({"model_type": "gla", "vocab_size": 64, "hidden_size": 32, "expand_v": 2.0,
      "num_heads": 4, "intermediate_size": 40, "num_hidden_layers": 2, "use_output_gate": false, "initializer_range": 0.1, "norm_eps": 1e-2,
      "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": true, "window_size": 5}})",
                   plain});
    out.push_back(
        {"matmul_free",
         R"({"model_type": "hgrn_bit", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24,
      "num_hidden_layers": 3, "initializer_range": 0.2, "expand_ratio": 2})",
         smooth, false});
    out.push_back(
        {"matmul_free_fla",
         R"({"model_type": "hgrn_bit", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 40,
      "num_hidden_layers": 2, "initializer_range": 0.2, "use_lower_bound": false, "output_gate": "fla",
      "act_bits": 6, "act_round": "half_away", "bit_norm_eps": 1e-5})",
         plain, false});
    out.push_back(
        {"matmul_free_real",
         R"({"model_type": "hgrn_bit", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 24,
      "num_hidden_layers": 2, "initializer_range": 0.2, "ternary": false, "act_round": "none"})",
         plain});
    out.push_back(
        {"gpt2_monarch",
         R"({"model_type": "gpt2", "vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 2,
      "n_head": 4, "n_inner": 64, "resid_pdrop": 0.1, "embd_pdrop": 0, "attn_pdrop": 0, "initializer_range": 0.2,
      "structured_linear": "MonarchLinear", "structured_targets": ["attn.c_attn", "attn.c_proj", "mlp.*"], "nblocks": 4})",
         plain});
    out.push_back(
        {"llama_monarch",
         R"({"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": true,
      "initializer_range": 0.2, "max_position_embeddings": 64, "linear": "monarch", "linear_init": "match_dense"})",
         smooth});
    out.push_back(
        {"gpt2_blockdiag",
         R"({"model_type": "gpt2", "vocab_size": 40, "n_positions": 32, "n_embd": 32, "n_layer": 2,
      "n_head": 4, "n_inner": 48, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "initializer_range": 0.2,
      "linear": "blockdiag", "linear_targets": ["mlp.fc1", "mlp.fc2"], "linear_init": "project_dense"})",
         plain});
    // Of low rank: the sum over tp lies between the factors where all row-cut linears of a region
    // are, and at its exit where one is dense.
    out.push_back(
        {"llama_lowrank",
         R"({"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "attention_bias": true, "mlp_bias": true,
      "initializer_range": 0.2, "max_position_embeddings": 64, "linear": "lowrank",
      "linear_ranks": ["0.self_attn.q_proj=5", "1.self_attn.q_proj=7", "0.self_attn.v_proj=3", "0.self_attn.o_proj=6",
      "1.self_attn.k_proj=4", "*.mlp.*=9"]})",
         smooth});
    out.push_back(
        {"gpt2_lowrank",
         R"({"model_type": "gpt2", "vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 2,
      "n_head": 4, "n_inner": 48, "resid_pdrop": 0.1, "embd_pdrop": 0, "attn_pdrop": 0, "initializer_range": 0.2,
      "structured_linear": "LowRankLinear", "linear_ranks": ["*.attn.c_attn=11", "1.mlp.c_proj=8", "0.mlp.c_fc=7"]})",
         plain});
    out.push_back(
        {"gla_lowrank",
         R"({"model_type": "gla", "vocab_size": 64, "hidden_size": 32, "num_heads": 4, "intermediate_size": 40,
      "num_hidden_layers": 2, "initializer_range": 0.1, "norm_eps": 1e-2, "linear": "lowrank",
      "linear_ranks": ["*.attn.o_proj=6", "1.attn.g_proj=5", "0.mlp.down_proj=10"]})",
         plain});
    out.push_back(
        {"hydra_lowrank",
         R"({"model_type": "bert", "matrix_mixer_type": "hydra", "vocab_size": 48, "hidden_size": 32,
      "num_hidden_layers": 2, "headdim": 8, "d_state": 5, "d_conv": 3, "hidden_dropout_prob": 0, "initializer_range": 0.2,
      "pad_token_id": -1, "mask_pad": true, "linear": "lowrank",
      "linear_ranks": ["*.mixer.out_proj=6", "1.mixer.in_proj_x=9"]})",
         plain});
    // Residual streams: the boundary is wider than the embedding, coefficients lie outside regions.
    // (A head that adds streams before its norm takes nothing of the last doubly stochastic
    // mixing.)
    out.push_back(
        {"llama_mhc_lite",
         R"({"model_type": "llama", "vocab_size": 44, "hidden_size": 32, "intermediate_size": 24,
      "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8, "initializer_range": 0.2,
      "max_position_embeddings": 64, "residual": "mhc_lite", "residual_streams": 3, "residual_init_std": 0.1,
      "residual_identity_offset": -1.0})",
         plain});
    out.push_back(
        {"gpt2_mhc",
         R"({"model_type": "gpt2", "vocab_size": 40, "n_positions": 32, "n_embd": 32, "n_layer": 2,
      "n_head": 4, "resid_pdrop": 0.1, "embd_pdrop": 0, "attn_pdrop": 0, "initializer_range": 0.2, "bias": false,
      "residual": "mhc", "residual_streams": 2, "residual_init_std": 0.1,
      "residual_identity_offset": -1.0})",
         plain});
    out.push_back(
        {"llama_hc",
         R"({"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 24,
      "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 6, "initializer_range": 0.2,
      "max_position_embeddings": 64, "residual": "hc", "residual_streams": 4, "residual_init_std": 0.1,
      "residual_reduce": "mean_then_norm"})",
         plain});
    out.push_back(
        {"hydra",
         R"({"model_type": "bert", "matrix_mixer_type": "hydra", "vocab_size": 61, "hidden_size": 32,
      "num_hidden_layers": 2, "headdim": 8, "d_state": 6, "d_conv": 5, "chunk_size": 8, "hidden_dropout_prob": 0.1,
      "initializer_range": 0.2, "use_position_embeddings": true, "max_position_embeddings": 64, "mask_pad": true})",
         smooth, false});
    out.push_back(
        {"hydra_groups",
         R"({"model_type": "bert", "matrix_mixer_type": "hydra", "vocab_size": 48, "hidden_size": 32,
      "num_hidden_layers": 2, "headdim": 8, "d_state": 5, "d_conv": 3, "ngroups": 2, "norm_groups": 2, "bias": true,
      "conv_bias": false, "dt_limit": [0.002, 0.09], "is_prenorm": true, "hidden_dropout_prob": 0, "initializer_range": 0.2,
      "pad_token_id": -1, "mask_pad": true, "linear": "monarch", "linear_blocks": 4,
      "linear_targets": ["mixer.in_proj_x", "mixer.out_proj"]})",
         plain});
    out.push_back(
        {"deltaproduct_two_steps",
         R"({"model_type": "gated_deltaproduct", "vocab_size": 61, "hidden_size": 32, "num_heads": 4,
      "head_dim": 6, "expand_v": 1.5, "num_householder": 2, "use_forget_gate": true, "allow_neg_eigval": true,
      "intermediate_size": 24, "num_hidden_layers": 2, "initializer_range": 0.2, "init_scheme": "paper",
      "tie_word_embeddings": true})",
         smooth});
    // Fewer heads than ranks at tp 4: values are cut within heads.
    out.push_back(
        {"deltaproduct_three_steps",
         R"({"model_type": "gated_deltaproduct", "vocab_size": 64, "hidden_size": 32, "num_heads": 2,
      "head_dim": 8, "expand_v": 2.0, "num_householder": 3, "allow_neg_eigval": true, "use_output_gate": false,
      "use_short_conv": false, "intermediate_size": 40, "num_hidden_layers": 2, "initializer_range": 0.2})",
         plain});
    out.push_back(
        {"delta_net_sums",
         R"({"model_type": "delta_net", "vocab_size": 40, "hidden_size": 32, "num_heads": 4,
      "expand_k": 0.75, "qk_norm": "sum", "qk_activation": "elu", "use_gate": true, "conv_size": 3,
      "intermediate_size": 24, "num_hidden_layers": 1, "initializer_range": 0.2})",
         plain});
    out.push_back(
        {"gated_deltanet_values",
         R"({"model_type": "gated_deltanet", "vocab_size": 64, "hidden_size": 32, "num_heads": 2,
      "num_v_heads": 4, "head_dim": 8, "expand_v": 1.0, "intermediate_size": 24, "num_hidden_layers": 2,
      "initializer_range": 0.1, "attn": {"layers": [1], "num_heads": 4}})",
         plain});
    return out;
  }();
  return models;
}

std::shared_ptr<const ModelSpec> make_tiny(const TinyModel& model) {
  return make_model_from_json(model.config_json, model.name, model.options);
}

Batch tiny_rows(int64_t vocabulary, int64_t begin, int64_t end, int64_t length, int64_t step,
                bool packed) {
  const Rng rng(99, "data", cat("tiny", step));
  const auto ids = at::TensorOptions().dtype(at::kLong);
  Batch out;
  out.tokens = at::empty({end - begin, length}, ids);
  out.labels = at::empty({end - begin, length}, ids);
  out.positions = at::empty({end - begin, length}, ids);
  if (packed) out.segments = at::empty({end - begin, length}, ids.dtype(at::kInt));
  out.step = step;
  out.first_row = begin;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t border =
        packed && row % 2 == 1 ? length / 3 : length;  // where the second document starts
    for (int64_t t = 0; t < length; ++t) {
      const int64_t at = (row - begin) * length + t;
      const uint64_t e = static_cast<uint64_t>(row * length + t) * 3;
      out.tokens.data_ptr<int64_t>()[at] = rng.word(e) % vocabulary;
      // The later the row, the fewer labels count; row 3 has none.
      const bool ignored = row == 3 || rng.uniform(e + 1) < 0.08 * static_cast<double>(row);
      out.labels.data_ptr<int64_t>()[at] = ignored ? kIgnoreLabel : rng.word(e + 2) % vocabulary;
      out.positions.data_ptr<int64_t>()[at] = t < border ? t : t - border;
      if (packed) out.segments.data_ptr<int32_t>()[at] = t < border ? 0 : 1;
    }
  }
  return out;
}

}  // namespace strata::testing
