#include "models/matmul_free/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/matmul_free/block.h"
#include "models/parts/decoder_spec.h"

namespace strata {
namespace matmul_free_detail {

DecoderShape shape_of(const MatmulFreeConfig& c) {
  DecoderShape shape;
  shape.family = "hgrn_bit";
  shape.vocabulary = c.vocab_size;
  shape.width = c.hidden_size;
  shape.blocks = c.num_hidden_layers;
  shape.embedding_layer = "model.embeddings";
  shape.embedding_prefix = "model.embeddings.";
  shape.embedding.init_std = c.initializer_range;
  shape.head.norm_eps = c.rms_norm_eps;
  BitLinearOptions head;
  head.init = Init::normal(c.initializer_range);
  head.rows = c.rows();
  head.ternary = c.ternary;
  shape.head.bit = head;
  return shape;
}

class MatmulFreeSpec final : public DecoderSpec {
 public:
  MatmulFreeSpec(const MatmulFreeConfig& config, const ModelOptions& options)
      : DecoderSpec(shape_of(config), config.parts, options), c_(config) {}

  bool generates_from_cache() const override { return true; }

  std::shared_ptr<Layer> make_block(int block, const ParallelLayout& layout) const override {
    return std::make_shared<MatmulFreeBlock>(c_, block, layout);
  }

  double block_flops_per_token(int, int64_t) const override {
    const double d = static_cast<double>(c_.hidden_size), e = static_cast<double>(c_.channels());
    return 2 * (4 * d * e + 3 * d * static_cast<double>(c_.inner()));
  }

  std::vector<SharedParameter> shared_parameters() const override {
    auto out = DecoderSpec::shared_parameters();
    if (!c_.use_lower_bound || c_.num_hidden_layers == 0) return out;
    SharedParameter bounds{"model.lower_bounds", {}, {}, true};
    for (int layer = c_.num_hidden_layers == 1 ? 1 : 2; layer < layer_count() - 1; ++layer)
      bounds.layers.push_back(layer);
    out.push_back(bounds);
    return out;
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    j["architectures"] = {"HGRNBitForCausalLM"};
    j["model_type"] = "hgrn_bit";
    j["vocab_size"] = c_.vocab_size;
    j["hidden_size"] = c_.hidden_size;
    j["num_hidden_layers"] = c_.num_hidden_layers;
    j["num_heads"] = c_.num_heads;
    j["expand_ratio"] = c_.expand_ratio;
    j["hidden_ratio"] = c_.hidden_ratio;
    j["intermediate_size"] = c_.inner();
    j["attn_mode"] = c_.attn_mode;
    j["hidden_act"] = c_.hidden_act;
    j["use_short_conv"] = false;
    j["use_lower_bound"] = c_.use_lower_bound;
    j["rms_norm_eps"] = c_.rms_norm_eps;
    j["initializer_range"] = c_.initializer_range;
    j["tie_word_embeddings"] = false;
    const MatmulFreeConfig usual;
    if (c_.output_gate != usual.output_gate) j["output_gate"] = c_.output_gate;
    if (c_.bit_norm_eps != usual.bit_norm_eps) j["bit_norm_eps"] = c_.bit_norm_eps;
    if (c_.act_bits != usual.act_bits) j["act_bits"] = c_.act_bits;
    if (c_.act_round != usual.act_round) j["act_round"] = c_.act_round;
    if (!c_.ternary) j["ternary"] = false;
    c_.parts.write(j);
    return j.dump(2) + "\n";
  }

 private:
  MatmulFreeConfig c_;
};

}  // namespace matmul_free_detail

std::unique_ptr<ModelSpec> make_matmul_free_spec(const MatmulFreeConfig& config,
                                                 const ModelOptions& options) {
  return std::make_unique<matmul_free_detail::MatmulFreeSpec>(config, options);
}

}  // namespace strata
