#include "models/gpt2/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/gpt2/block.h"

namespace strata {
namespace gpt2_detail {

DecoderShape shape_of(const Gpt2Config& c) {
  DecoderShape shape;
  shape.family = "gpt2";
  shape.vocabulary = c.vocab_size;
  shape.width = c.n_embd;
  shape.blocks = c.n_layer;
  shape.max_positions = c.n_positions;
  shape.tied = c.tie_word_embeddings;
  shape.embedding_layer = "transformer.wte";
  shape.embedding_prefix = "transformer.";
  shape.block_layer = "transformer.h.";
  shape.embedding.weight_name = "wte.weight";
  shape.embedding.init_std = c.initializer_range;
  shape.embedding.positions = c.n_positions;
  shape.embedding.position_name = "wpe.weight";
  shape.embedding.position_init_std = c.initializer_range;
  shape.embedding.dropout = c.embd_pdrop;
  shape.head.norm = HeadOptions::Norm::Layer;
  shape.head.norm_name = "transformer.ln_f";
  shape.head.norm_eps = c.layer_norm_epsilon;
  shape.head.norm_bias = c.bias;
  shape.head.init_std = c.initializer_range;
  return shape;
}

}  // namespace gpt2_detail

Gpt2Spec::Gpt2Spec(const Gpt2Config& config, const ModelOptions& options)
    : DecoderSpec(gpt2_detail::shape_of(config), config.parts, options), c_(config) {}

std::shared_ptr<Layer> Gpt2Spec::make_block(int block, const ParallelLayout& layout) const {
  return std::make_shared<Gpt2Block>(of_block(c_, block), block, layout);
}

double Gpt2Spec::block_flops_per_token(int block, int64_t time) const {
  const int64_t C = c_.n_embd, F = c_.inner();
  const LinearParts l = c_.parts.linears.of(block);
  const double mlp = c_.plain_mlp() ? l.cost("mlp.c_fc", C, F) + l.cost("mlp.c_proj", F, C)
                                    : l.cost("mlp.fc1", C, F) + l.cost("mlp.fc2", F, C);
  const double linears = l.cost("attn.c_attn", C, 3 * C) + l.cost("attn.c_proj", C, C) + mlp;
  return 2 * linears + 4 * static_cast<double>(C) * static_cast<double>(time);
}

// HF stores the linear layers of a block as Conv1D, [in, out].
ForeignTensor Gpt2Spec::foreign(const std::string& parameter) const {
  for (const char* linear : {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}) {
    if (ends_with(parameter, cat(".", linear, ".weight")))
      return {parameter, !c_.parts.linears.targeted(linear)};
  }
  return {parameter, false};
}

bool Gpt2Spec::foreign_ignored(const std::string& name) const {
  return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
         DecoderSpec::foreign_ignored(name);
}

std::string Gpt2Spec::foreign_config() const {
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
  if (!c_.bias) j["bias"] = false;
  c_.parts.write(j);
  return j.dump(2) + "\n";
}

std::unique_ptr<ModelSpec> make_gpt2_spec(const Gpt2Config& config, const ModelOptions& options) {
  return std::make_unique<Gpt2Spec>(config, options);
}

}  // namespace strata
