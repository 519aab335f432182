#include "models/deltaproduct/spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/ops/delta_product.h"
#include "core/text.h"
#include "models/deltaproduct/block.h"
#include "models/parts/decoder_spec.h"

namespace strata {
namespace deltaproduct_spec_detail {

class DeltaProductSpec final : public DecoderSpec {
 public:
  DeltaProductSpec(const DeltaProductConfig& config, const ModelOptions& options)
      : DecoderSpec(fla_shape(config.family, config), config.parts, options), c_(config) {}

  bool generates_from_cache() const override { return true; }

  std::shared_ptr<Layer> make_block(int block, const ParallelLayout& layout) const override {
    return std::make_shared<DeltaProductBlock>(of_block(c_, block), block, layout);
  }
  std::string block_cost_class(int block) const override {
    return c_.attn.has(block) ? "attention block" : "block";
  }

  // Chunks of C micro-steps, triangles counted as whole squares.
  double block_flops_per_token(int block, int64_t time) const override {
    const int64_t D = c_.hidden_size, Q = c_.num_heads * c_.head_k(),
                  values = c_.value_heads() * c_.head_v(), heads = c_.value_heads();
    const LinearParts l = c_.parts.linears.of(block);
    const double mlp = l.swiglu_flops("mlp.", D, c_.ffn_dim());
    if (c_.attn.has(block)) return c_.attn.flops_per_token(c_.hidden_size, time) + mlp;
    const int64_t steps = c_.steps();
    double linears = l.cost("attn.q_proj", D, Q) + l.cost("attn.k_proj", D, steps * Q) +
                     l.cost("attn.v_proj", D, steps * values) + l.cost("attn.o_proj", values, D);
    if (c_.use_beta) linears += l.cost("attn.b_proj", D, steps * heads);
    if (c_.use_forget_gate) linears += l.cost("attn.a_proj", D, heads);
    if (c_.use_output_gate) linears += l.cost("attn.g_proj", D, values);
    if (c_.use_short_conv)
      linears += static_cast<double>(c_.conv_size * (Q + steps * (Q + values)));
    const double G = static_cast<double>(heads), n = static_cast<double>(steps),
                 K = static_cast<double>(c_.head_k()), V = static_cast<double>(c_.head_v()),
                 C = static_cast<double>(ops::kDeltaChunk);
    const double mixer = G * (n * (4 * K * V + 4 * C * K + 2 * C * V + 2 * C * C / 3) + 2 * K * V +
                              2 * n * C * (K + V));
    return 2 * linears + mixer + mlp;
  }

  // weight_layout = lists: "attn.k_projs.0.weight", ... for "attn.k_proj.weight".
  ForeignTensor foreign(const std::string& parameter) const override {
    ForeignTensor out{parameter};
    if (c_.weight_layout != "lists") return out;
    for (const std::string stem :
         {"k_proj", "v_proj", "b_proj", "k_conv1d", "v_conv1d", "q_conv1d"}) {
      const std::string tail = cat(".attn.", stem, ".weight");
      if (!ends_with(parameter, tail)) continue;
      const std::string head = parameter.substr(0, parameter.size() - tail.size());
      // Their list of query convolutions is as long as the others, and only the first is used.
      const int64_t steps = stem == "q_conv1d" ? 1 : c_.steps();
      for (int64_t j = 0; j < steps; ++j) {
        out.parts.push_back(cat(head, ".attn.", stem, "s.", j, ".weight"));
      }
    }
    return out;
  }
  bool foreign_ignored(const std::string& name) const override {
    return DecoderSpec::foreign_ignored(name) ||
           (c_.weight_layout == "lists" && name.find(".attn.q_conv1ds.") != std::string::npos);
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    const bool product = c_.family == "gated_deltaproduct", plain = c_.family == "delta_net";
    j["architectures"] = {product ? "GatedDeltaProductForCausalLM"
                          : plain ? "DeltaNetForCausalLM"
                                  : "GatedDeltaNetForCausalLM"};
    j["model_type"] = c_.family;
    j["vocab_size"] = c_.vocab_size;
    j["hidden_size"] = c_.hidden_size;
    j["hidden_ratio"] = c_.hidden_ratio;
    j["intermediate_size"] = c_.ffn_dim();
    j["num_hidden_layers"] = c_.num_hidden_layers;
    j["num_heads"] = c_.num_heads;
    if (plain) {
      j["expand_k"] = c_.expand_k;
      j["use_beta"] = c_.use_beta;
      j["use_output_norm"] = true;
      j["qk_norm"] = c_.qk_norm;
      j["qk_activation"] = c_.qk_activation;
    } else {
      j["head_dim"] = c_.head_dim;
    }
    j["expand_v"] = c_.expand_v;
    if (product) {
      j["num_householder"] = c_.num_householder;
      j["use_forget_gate"] = c_.use_forget_gate;
      if (c_.weight_layout != "joint") j["weight_layout"] = c_.weight_layout;
    }
    if (c_.family == "gated_deltanet") {
      j["num_v_heads"] = nullptr;
      if (c_.num_v_heads) j["num_v_heads"] = *c_.num_v_heads;
    }
    j[product ? "use_output_gate" : "use_gate"] = c_.use_output_gate;
    j["allow_neg_eigval"] = c_.allow_neg_eigval;
    j["use_short_conv"] = c_.use_short_conv;
    j["conv_size"] = c_.conv_size;
    j["attn_mode"] = c_.attn_mode;
    j["hidden_act"] = c_.hidden_act;
    j["max_position_embeddings"] = c_.max_position_embeddings;
    j["norm_eps"] = c_.norm_eps;
    c_.attn.write(j);
    j["initializer_range"] = c_.initializer_range;
    if (c_.init_scheme != "fla") j["init_scheme"] = c_.init_scheme;
    j["tie_word_embeddings"] = c_.tie_word_embeddings;
    c_.parts.write(j);
    return j.dump(2) + "\n";
  }

 private:
  DeltaProductConfig c_;
};

}  // namespace deltaproduct_spec_detail

std::unique_ptr<ModelSpec> make_deltaproduct_spec(const DeltaProductConfig& config,
                                                  const ModelOptions& options) {
  return std::make_unique<deltaproduct_spec_detail::DeltaProductSpec>(config, options);
}

}  // namespace strata
