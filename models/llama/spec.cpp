#include "models/llama/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/llama/block.h"
#include "models/parts/decoder_spec.h"

namespace strata {
namespace llama_detail {

DecoderShape shape_of(const LlamaConfig& c) {
  DecoderShape shape;
  shape.family = "llama";
  shape.vocabulary = c.vocab_size;
  shape.width = c.hidden_size;
  shape.blocks = c.num_hidden_layers;
  shape.max_positions = c.max_position_embeddings;
  shape.tied = c.tie_word_embeddings;
  shape.embedding.init_std = c.initializer_range;
  shape.head.norm_eps = c.rms_norm_eps;
  shape.head.init_std = c.initializer_range;
  return shape;
}

class LlamaSpec final : public DecoderSpec {
 public:
  LlamaSpec(const LlamaConfig& config, const ModelOptions& options)
      : DecoderSpec(shape_of(config), config.parts, options), c_(config) {}

  // Frequencies of "dynamic" depend on the length, so remembered keys would be turned wrongly.
  bool generates_from_cache() const override { return c_.rope_scaling.rope_type != "dynamic"; }

  std::shared_ptr<Layer> make_block(int block, const ParallelLayout& layout) const override {
    return std::make_shared<LlamaBlock>(of_block(c_, block), block, layout);
  }

  double block_flops_per_token(int block, int64_t time) const override {
    const int64_t d = c_.hidden_size, q = c_.num_attention_heads * c_.head_dim(),
                  kv = c_.kv_heads() * c_.head_dim(), F = c_.intermediate_size;
    const LinearParts l = c_.parts.linears.of(block);
    const double linears = l.cost("self_attn.q_proj", d, q) + l.cost("self_attn.k_proj", d, kv) +
                           l.cost("self_attn.v_proj", d, kv) + l.cost("self_attn.o_proj", q, d);
    return 2 * linears + l.swiglu_flops("mlp.", d, F) +
           4 * static_cast<double>(q) * static_cast<double>(time);
  }

  bool foreign_ignored(const std::string& name) const override {
    return ends_with(name, "rotary_emb.inv_freq") || DecoderSpec::foreign_ignored(name);
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
    c_.parts.write(j);
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
};

}  // namespace llama_detail

std::unique_ptr<ModelSpec> make_llama_spec(const LlamaConfig& config, const ModelOptions& options) {
  return std::make_unique<llama_detail::LlamaSpec>(config, options);
}

}  // namespace strata
