#include "models/llama/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/llama/block.h"
#include "parallel/nn/embedding.h"
#include "parallel/nn/head.h"

namespace strata {
namespace llama_detail {

class LlamaSpec final : public ModelSpec {
 public:
  LlamaSpec(LlamaConfig config, ModelOptions options)
      : c_(std::move(config)), options_(std::move(options)) {}

  std::string family() const override { return "llama"; }
  int layer_count() const override { return static_cast<int>(c_.num_hidden_layers) + 2; }
  std::string layer_name(int layer) const override {
    if (layer == 0) return "model.embed_tokens";
    return layer == layer_count() - 1 ? "lm_head" : cat("model.layers.", layer - 1);
  }
  std::string parameter_prefix(int layer) const override {
    return layer == layer_count() - 1 ? "" : layer_name(layer) + ".";
  }
  std::string cost_class(int layer) const override {
    return layer == 0 ? "embedding" : layer == layer_count() - 1 ? "head" : "block";
  }
  int64_t vocabulary() const override { return c_.vocab_size; }
  int64_t max_positions() const override { return c_.max_position_embeddings; }

  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    if (layer == 0) {
      EmbeddingOptions options;
      options.init_std = c_.initializer_range;
      return std::make_shared<EmbeddingLayer>(c_.vocab_size, c_.hidden_size, options, layout);
    }
    if (layer < layer_count() - 1) return std::make_shared<LlamaBlock>(c_, layout);
    HeadOptions head;
    head.norm_eps = c_.rms_norm_eps;
    head.init_std = c_.initializer_range;
    head.loss = options_.loss;
    head.chunk_tokens = options_.head_chunk_tokens;
    head.tied = c_.tie_word_embeddings;
    if (head.tied) head.weight_name = "model.embed_tokens.weight";
    return std::make_shared<HeadLayer>(c_.hidden_size, c_.vocab_size, head, layout);
  }

  Shape boundary(int, int64_t rows, int64_t time) const override {
    return {rows, time, c_.hidden_size};
  }

  double flops_per_token(int layer, int64_t time) const override {
    const double d = static_cast<double>(c_.hidden_size), K = static_cast<double>(c_.head_dim());
    const double q = static_cast<double>(c_.num_attention_heads) * K,
                 kv = static_cast<double>(c_.kv_heads()) * K;
    if (layer == 0) return 0;
    if (layer == layer_count() - 1) return 2 * d * static_cast<double>(c_.vocab_size);
    const double projections =
        2 * d * (2 * q + 2 * kv) + 6 * d * static_cast<double>(c_.intermediate_size);
    return projections + 4 * q * static_cast<double>(time);
  }

  std::vector<SharedParameter> shared_parameters() const override {
    if (!c_.tie_word_embeddings) return {};
    return {{"model.embed_tokens.weight", {0, layer_count() - 1}, {"lm_head.weight"}}};
  }

  bool foreign_ignored(const std::string& name) const override {
    return ends_with(name, "rotary_emb.inv_freq") ||
           (c_.tie_word_embeddings && name == "lm_head.weight");
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    j["architectures"] = {"LlamaForCausalLM"};
    j["model_type"] = "llama";
    j["vocab_size"] = c_.vocab_size;
    j["hidden_size"] = c_.hidden_size;
    j["intermediate_size"] = c_.intermediate_size;
    j["num_hidden_layers"] = c_.num_hidden_layers;
    j["num_attention_heads"] = c_.num_attention_heads;
    j["num_key_value_heads"] = c_.kv_heads();
    j["head_dim"] = c_.head_dim();
    j["max_position_embeddings"] = c_.max_position_embeddings;
    j["rms_norm_eps"] = c_.rms_norm_eps;
    j["rope_theta"] = c_.rope_theta;
    j["rope_scaling"] = scaling();
    j["initializer_range"] = c_.initializer_range;
    j["tie_word_embeddings"] = c_.tie_word_embeddings;
    j["attention_bias"] = c_.attention_bias;
    j["mlp_bias"] = c_.mlp_bias;
    j["attention_dropout"] = c_.attention_dropout;
    j["hidden_act"] = c_.hidden_act;
    return j.dump(2) + "\n";
  }

 private:
  nlohmann::ordered_json scaling() const {
    const ops::RopeScaling& r = c_.rope_scaling;
    if (r.rope_type == "default") return nullptr;
    nlohmann::ordered_json j;
    j["rope_type"] = r.rope_type;
    j["factor"] = r.factor;
    if (r.rope_type == "llama3") {
      j["low_freq_factor"] = r.low_freq_factor;
      j["high_freq_factor"] = r.high_freq_factor;
    }
    if (r.rope_type == "yarn") {
      j["beta_fast"] = r.beta_fast;
      j["beta_slow"] = r.beta_slow;
      if (r.attention_factor) j["attention_factor"] = *r.attention_factor;
      if (r.mscale) j["mscale"] = *r.mscale;
      if (r.mscale_all_dim) j["mscale_all_dim"] = *r.mscale_all_dim;
    }
    if (r.original_max_position_embeddings)
      j["original_max_position_embeddings"] = *r.original_max_position_embeddings;
    return j;
  }

  LlamaConfig c_;
  ModelOptions options_;
};

}  // namespace llama_detail

std::unique_ptr<ModelSpec> make_llama_spec(const LlamaConfig& config, const ModelOptions& options) {
  return std::make_unique<llama_detail::LlamaSpec>(config, options);
}

}  // namespace strata
