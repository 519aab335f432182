#include "models/gla/spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/gla/block.h"
#include "models/parts/decoder_spec.h"

namespace strata {
namespace gla_spec_detail {

class GlaSpec final : public DecoderSpec {
 public:
  GlaSpec(const GlaConfig& config, const ModelOptions& options)
      : DecoderSpec(fla_shape("gla", config), config.parts, options), c_(config) {}

  bool generates_from_cache() const override { return true; }

  std::shared_ptr<Layer> make_block(int block, const ParallelLayout& layout) const override {
    return std::make_shared<GlaBlock>(of_block(c_, block), block, layout);
  }
  std::string block_cost_class(int block) const override {
    return c_.attn.has(block) ? "attention block" : "block";
  }

  // Chunks of 64 tokens in sub-chunks of 16, lower triangles counted as whole blocks.
  double block_flops_per_token(int block, int64_t time) const override {
    const int64_t D = c_.hidden_size, Q = c_.num_heads * c_.head_k(),
                  keys = c_.kv_heads() * c_.head_k(), values = c_.kv_heads() * c_.head_v(),
                  out = c_.num_heads * c_.head_v(), rank = GlaConfig::kGateRank;
    const LinearParts l = c_.parts.linears.of(block);
    const double mlp = l.swiglu_flops("mlp.", D, c_.ffn_dim());
    if (c_.attn.has(block)) return c_.attn.flops_per_token(c_.hidden_size, time) + mlp;
    double linears = l.cost("attn.q_proj", D, Q) + l.cost("attn.k_proj", D, keys) +
                     l.cost("attn.v_proj", D, values) + l.cost("attn.o_proj", out, D) +
                     l.cost("attn.gk_proj.0", D, rank) + l.cost("attn.gk_proj.1", rank, keys);
    if (c_.use_output_gate) linears += l.cost("attn.g_proj", D, out);
    if (c_.use_short_conv) linears += static_cast<double>(c_.conv_size * (Q + keys + values));
    const double H = static_cast<double>(c_.num_heads), K = static_cast<double>(c_.head_k()),
                 V = static_cast<double>(c_.head_v());
    const double mixer = H * (4 * K * V + 2 * 64 * V + 2 * K * 24 + 4 * K * 16);
    return 2 * linears + mixer + mlp;
  }

  ForeignTensor foreign(const std::string& parameter) const override {
    const bool fused = c_.fuse_norm && c_.use_output_gate;
    return {fused ? renamed(parameter, kPlainNorm, kFusedNorm) : parameter, false};
  }
  // Files made with the other value of fuse_norm.
  std::vector<std::string> foreign_aliases(const std::string& parameter) const override {
    if (!ends_with(parameter, kPlainNorm)) return {};
    return {parameter, renamed(parameter, kPlainNorm, kFusedNorm)};
  }

  bool foreign_ignored(const std::string& name) const override {
    return ends_with(name, "rotary.inv_freq") || DecoderSpec::foreign_ignored(name);
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    const auto optional = [](const auto& value) {
      return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
    };
    j["architectures"] = {"GLAForCausalLM"};
    j["model_type"] = "gla";
    j["vocab_size"] = c_.vocab_size;
    j["hidden_size"] = c_.hidden_size;
    j["expand_k"] = c_.expand_k;
    j["expand_v"] = c_.expand_v;
    j["hidden_ratio"] = c_.hidden_ratio;
    j["intermediate_size"] = c_.ffn_dim();
    j["num_hidden_layers"] = c_.num_hidden_layers;
    j["num_heads"] = c_.num_heads;
    j["num_kv_heads"] = optional(c_.num_kv_heads);
    j["feature_map"] = nullptr;
    if (c_.feature_map != "none") j["feature_map"] = c_.feature_map;
    j["attn_mode"] = c_.attn_mode;
    j["use_short_conv"] = c_.use_short_conv;
    j["conv_size"] = c_.conv_size;
    j["use_output_gate"] = c_.use_output_gate;
    j["clamp_min"] = optional(c_.clamp_min);
    j["hidden_act"] = c_.hidden_act;
    j["max_position_embeddings"] = c_.max_position_embeddings;
    j["elementwise_affine"] = c_.elementwise_affine;
    j["norm_eps"] = c_.norm_eps;
    c_.attn.write(j);
    j["initializer_range"] = c_.initializer_range;
    j["tie_word_embeddings"] = c_.tie_word_embeddings;
    j["fuse_norm"] = c_.fuse_norm;
    if (c_.residual_init != "plain") j["residual_init"] = c_.residual_init;
    c_.parts.write(j);
    return j.dump(2) + "\n";
  }

 private:
  static constexpr const char* kPlainNorm = "attn.g_norm.weight";
  static constexpr const char* kFusedNorm = "attn.g_norm_swish_gate.weight";
  static std::string renamed(const std::string& name, const std::string& from,
                             const std::string& to) {
    return ends_with(name, from) ? name.substr(0, name.size() - from.size()) + to : name;
  }

  GlaConfig c_;
};

}  // namespace gla_spec_detail

std::unique_ptr<ModelSpec> make_gla_spec(const GlaConfig& config, const ModelOptions& options) {
  return std::make_unique<gla_spec_detail::GlaSpec>(config, options);
}

}  // namespace strata
