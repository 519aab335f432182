#include "models/hydra/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/hydra/block.h"
#include "parallel/nn/embedding.h"
#include "parallel/nn/head.h"

namespace strata {
namespace hydra_detail {

constexpr const char* kEmbedding = "bert.embeddings.word_embeddings.weight";

class HydraSpec final : public ModelSpec {
 public:
  HydraSpec(HydraConfig config, ModelOptions options)
      : c_(std::move(config)), options_(std::move(options)) {}

  std::string family() const override { return "hydra"; }
  bool causal() const override { return false; }
  int layer_count() const override { return static_cast<int>(c_.num_hidden_layers) + 2; }
  std::string layer_name(int layer) const override {
    if (layer == 0) return "bert.embeddings";
    return layer == layer_count() - 1 ? "cls.predictions"
                                      : cat("bert.encoder.layer.", layer - 1, ".layer");
  }
  std::string parameter_prefix(int layer) const override {
    return layer == layer_count() - 1 ? "" : layer_name(layer) + ".";
  }
  std::string cost_class(int layer) const override {
    if (layer == 0) return "embedding";
    if (layer == layer_count() - 1) return "head";
    return c_.parts.linears.low_rank() ? cat("block ", layer - 1) : "block";
  }
  int64_t vocabulary() const override { return c_.vocab_size; }
  int64_t max_positions() const override {
    return c_.use_position_embeddings ? c_.max_position_embeddings : 0;
  }

  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    if (layer == 0) {
      EmbeddingOptions options;
      options.weight_name = "word_embeddings.weight";
      options.init_std = c_.initializer_range;
      options.positions = max_positions();
      options.position_name = "position_embeddings.weight";
      options.position_init_std = c_.initializer_range;
      options.token_types = c_.type_vocab_size;
      options.token_type_name = "token_type_embeddings.weight";
      options.norm_name = "LayerNorm";
      options.norm_eps = c_.layer_norm_eps;
      options.dropout = c_.hidden_dropout_prob;
      options.padding_id = c_.pad_token_id;
      return std::make_shared<EmbeddingLayer>(c_.vocab_size, c_.hidden_size, options, layout);
    }
    if (layer < layer_count() - 1)
      return std::make_shared<HydraBlock>(of_block(c_, layer - 1), layer - 1, layout);
    HeadOptions head;
    head.norm = HeadOptions::Norm::None;
    head.transform_name = "cls.predictions.transform";
    head.transform_activation = c_.hidden_act;
    head.transform_eps = c_.layer_norm_eps;
    head.init_std = c_.initializer_range;
    head.weight_name = kEmbedding;
    head.tied = true;
    head.bias_name = "cls.predictions.decoder.bias";
    head.labelled_only = true;
    head.loss = options_.loss;
    head.chunk_tokens = options_.head_chunk_tokens;
    return std::make_shared<HeadLayer>(c_.hidden_size, c_.vocab_size, head, layout);
  }

  Shape boundary(int, int64_t rows, int64_t time) const override {
    return {rows, time, c_.hidden_size};
  }

  double flops_per_token(int layer, int64_t) const override {
    const auto number = [](int64_t n) { return static_cast<double>(n); };
    const double D = number(c_.hidden_size), E = number(c_.inner()), H = number(c_.heads());
    const double P = number(c_.headdim), N = number(c_.d_state), G = number(c_.ngroups);
    const double Q = number(std::min<int64_t>(c_.chunk_size, 64));
    if (layer == 0) return 0;
    if (layer == layer_count() - 1) return 2 * D * (D + number(c_.vocab_size));
    const double keys = number(c_.keys());
    const auto cost = [&](const char* name, int64_t in, int64_t out) {
      return c_.parts.linears.of(layer - 1).cost(cat("mixer.", name), in, out);
    };
    const double large = cost("in_proj_z", c_.hidden_size, c_.inner()) +
                         cost("in_proj_x", c_.hidden_size, c_.inner()) +
                         cost("out_proj", c_.inner(), c_.hidden_size);
    const double projections = 2 * large + 2 * D * (keys + 2 * H) + 2 * E * H;
    const double conv = 2 * number(c_.d_conv) * (E + keys);
    return projections + conv + 2 * (2 * Q * N * G + H * (2 * Q * P + 4 * P * N));
  }

  std::vector<SharedParameter> shared_parameters() const override {
    return {{kEmbedding, {0, layer_count() - 1}, {"cls.predictions.decoder.weight"}}};
  }

  // The files hold in_proj and conv1d whole, and the norm after the last block as the encoder's. A
  // structured part of in_proj leaves nothing whole: all its parts then have their own names.
  ForeignTensor foreign(const std::string& parameter) const override {
    const int64_t E = c_.inner(), K = c_.keys(), H = c_.heads();
    struct Part {
      std::string ours, theirs;
      Range rows;
    };
    for (const Part& part :
         {Part{".mixer.in_proj_z.", ".mixer.in_proj.", {0, E}},
          Part{".mixer.in_proj_x.", ".mixer.in_proj.", {E, 2 * E}},
          Part{".mixer.in_proj_bc.", ".mixer.in_proj.", {2 * E, 2 * E + K}},
          Part{".mixer.in_proj_dt.", ".mixer.in_proj.", {2 * E + K, 2 * E + K + 2 * H}},
          Part{".mixer.conv1d_x.", ".mixer.conv1d.", {0, E}},
          Part{".mixer.conv1d_bc.", ".mixer.conv1d.", {E, E + K}}}) {
      const size_t at = parameter.find(part.ours);
      if (at == std::string::npos) continue;
      if (part.theirs == ".mixer.in_proj." && !c_.whole_in_proj()) break;
      return {parameter.substr(0, at) + part.theirs + parameter.substr(at + part.ours.size()),
              false, part.rows};
    }
    const size_t norm = parameter.find(".layer.norm_f.");
    if (norm != std::string::npos) {
      return {"bert.encoder.norm_f." + parameter.substr(norm + 14), false, {}};
    }
    return {parameter, false, {}};
  }
  bool foreign_ignored(const std::string& name) const override {
    return name == "cls.predictions.decoder.weight" || name == "cls.predictions.bias" ||
           name == "bert.embeddings.position_ids" || starts_with(name, "bert.pooler.") ||
           starts_with(name, "cls.seq_relationship.");
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    j["architectures"] = {"BertForMaskedLM"};
    j["model_type"] = "bert";
    j["matrix_mixer_type"] = "hydra";
    j["vocab_size"] = c_.vocab_size;
    j["hidden_size"] = c_.hidden_size;
    j["num_hidden_layers"] = c_.num_hidden_layers;
    j["d_state"] = c_.d_state;
    j["d_conv"] = c_.d_conv;
    if (c_.conv_init) j["conv_init"] = *c_.conv_init;
    j["expand"] = c_.expand;
    j["headdim"] = c_.headdim;
    j["ngroups"] = c_.ngroups;
    j["dt_min"] = c_.dt_min;
    j["dt_max"] = c_.dt_max;
    j["dt_init_floor"] = c_.dt_init_floor;
    if (!c_.dt_limit.empty()) j["dt_limit"] = c_.dt_limit;
    j["learnable_init_states"] = c_.learnable_init_states;
    j["activation"] = c_.activation;
    j["bias"] = c_.bias;
    j["conv_bias"] = c_.conv_bias;
    j["chunk_size"] = c_.chunk_size;
    j["is_prenorm"] = c_.is_prenorm;
    j["use_position_embeddings"] = c_.use_position_embeddings;
    j["max_position_embeddings"] = c_.max_position_embeddings;
    j["type_vocab_size"] = c_.type_vocab_size;
    j["pad_token_id"] = c_.pad_token_id;
    j["hidden_act"] = c_.hidden_act;
    j["layer_norm_eps"] = c_.layer_norm_eps;
    j["hidden_dropout_prob"] = c_.hidden_dropout_prob;
    j["initializer_range"] = c_.initializer_range;
    j["norm_groups"] = c_.norm_groups;
    j["mask_pad"] = c_.mask_pad;
    c_.parts.write(j);
    return j.dump(2) + "\n";
  }

 private:
  HydraConfig c_;
  ModelOptions options_;
};

}  // namespace hydra_detail

std::unique_ptr<ModelSpec> make_hydra_spec(const HydraConfig& config, const ModelOptions& options) {
  return std::make_unique<hydra_detail::HydraSpec>(config, options);
}

}  // namespace strata
