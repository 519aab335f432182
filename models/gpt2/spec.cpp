#include "models/gpt2/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/gpt2/block.h"
#include "parallel/nn/embedding.h"
#include "parallel/nn/head.h"

namespace strata {
namespace gpt2_detail {

class Gpt2Spec final : public ModelSpec {
 public:
  Gpt2Spec(Gpt2Config config, ModelOptions options)
      : c_(std::move(config)), options_(std::move(options)) {}

  std::string family() const override { return "gpt2"; }
  int layer_count() const override { return static_cast<int>(c_.n_layer) + 2; }
  std::string layer_name(int layer) const override {
    if (layer == 0) return "transformer.wte";
    return layer == layer_count() - 1 ? "lm_head" : cat("transformer.h.", layer - 1);
  }
  std::string parameter_prefix(int layer) const override {
    if (layer == 0) return "transformer.";
    return layer == layer_count() - 1 ? "" : layer_name(layer) + ".";
  }
  std::string cost_class(int layer) const override {
    return layer == 0 ? "embedding" : layer == layer_count() - 1 ? "head" : "block";
  }
  int64_t vocabulary() const override { return c_.vocab_size; }
  int64_t max_positions() const override { return c_.n_positions; }

  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    if (layer == 0) {
      EmbeddingOptions options;
      options.weight_name = "wte.weight";
      options.init_std = c_.initializer_range;
      options.positions = c_.n_positions;
      options.position_name = "wpe.weight";
      options.position_init_std = c_.initializer_range;
      options.dropout = c_.embd_pdrop;
      return std::make_shared<EmbeddingLayer>(c_.vocab_size, c_.n_embd, options, layout);
    }
    if (layer < layer_count() - 1) return std::make_shared<Gpt2Block>(c_, layer - 1, layout);
    HeadOptions head;
    head.norm = HeadOptions::Norm::Layer;
    head.norm_name = "transformer.ln_f";
    head.norm_eps = c_.layer_norm_epsilon;
    head.init_std = c_.initializer_range;
    head.loss = options_.loss;
    head.chunk_tokens = options_.head_chunk_tokens;
    head.tied = c_.tie_word_embeddings;
    if (head.tied) head.weight_name = "transformer.wte.weight";
    return std::make_shared<HeadLayer>(c_.n_embd, c_.vocab_size, head, layout);
  }

  Shape boundary(int, int64_t rows, int64_t time) const override { return {rows, time, c_.n_embd}; }

  double flops_per_token(int layer, int64_t time) const override {
    const double C = static_cast<double>(c_.n_embd);
    if (layer == 0) return 0;
    if (layer == layer_count() - 1) return 2 * C * static_cast<double>(c_.vocab_size);
    return 8 * C * C + 4 * C * static_cast<double>(c_.inner()) + 4 * C * static_cast<double>(time);
  }

  std::vector<SharedParameter> shared_parameters() const override {
    if (!c_.tie_word_embeddings) return {};
    return {{"transformer.wte.weight", {0, layer_count() - 1}, {"lm_head.weight"}}};
  }

  // HF stores the linear layers of a block as Conv1D, [in, out].
  ForeignTensor foreign(const std::string& parameter) const override {
    for (const char* linear :
         {".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight"}) {
      if (ends_with(parameter, linear)) return {parameter, true};
    }
    return {parameter, false};
  }
  bool foreign_ignored(const std::string& name) const override {
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           (c_.tie_word_embeddings && name == "lm_head.weight");
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    j["architectures"] = {"GPT2LMHeadModel"};
    j["model_type"] = "gpt2";
    j["vocab_size"] = c_.vocab_size;
    j["n_positions"] = c_.n_positions;
    j["n_embd"] = c_.n_embd;
    j["n_layer"] = c_.n_layer;
    j["n_head"] = c_.n_head;
    j["n_inner"] = c_.inner();
    j["activation_function"] = c_.activation_function;
    j["resid_pdrop"] = c_.resid_pdrop;
    j["embd_pdrop"] = c_.embd_pdrop;
    j["attn_pdrop"] = c_.attn_pdrop;
    j["layer_norm_epsilon"] = c_.layer_norm_epsilon;
    j["initializer_range"] = c_.initializer_range;
    j["scale_attn_weights"] = c_.scale_attn_weights;
    j["scale_attn_by_inverse_layer_idx"] = c_.scale_attn_by_inverse_layer_idx;
    j["tie_word_embeddings"] = c_.tie_word_embeddings;
    return j.dump(2) + "\n";
  }

 private:
  Gpt2Config c_;
  ModelOptions options_;
};

}  // namespace gpt2_detail

std::unique_ptr<ModelSpec> make_gpt2_spec(const Gpt2Config& config, const ModelOptions& options) {
  return std::make_unique<gpt2_detail::Gpt2Spec>(config, options);
}

}  // namespace strata
