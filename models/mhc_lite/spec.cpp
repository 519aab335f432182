#include "models/mhc_lite/spec.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "models/gpt2/spec.h"

namespace strata {
namespace mhc_lite_detail {

// Blocks of the gpt2 family with other names: the branch of a connection is a list of the norm (0)
// and the layer (1), and a plain nn.Linear stores [out, in].
class MhcLiteSpec final : public Gpt2Spec {
 public:
  MhcLiteSpec(const MhcLiteConfig& config, const ModelOptions& options)
      : Gpt2Spec(config.gpt2(), options), c_(config) {}

  std::string family() const override { return "mhc_lite_gpt"; }

  ForeignTensor foreign(const std::string& parameter) const override {
    const std::pair<const char*, const char*> renamed[] = {{".ln_1.", ".branch_attn.0."},
                                                           {".attn.", ".branch_attn.1."},
                                                           {".ln_2.", ".branch_mlp.0."},
                                                           {".mlp.", ".branch_mlp.1."}};
    for (const auto& [ours, theirs] : renamed) {
      const size_t at = parameter.find(ours);
      if (at == std::string::npos) continue;
      std::string name = parameter;
      return {name.replace(at, std::string(ours).size(), theirs), false};
    }
    return {parameter, false};
  }
  // State dicts list the branches once more below the connection that owns them.
  bool foreign_ignored(const std::string& name) const override {
    return name.find(".hc_attn.branch.") != std::string::npos ||
           name.find(".hc_mlp.branch.") != std::string::npos || Gpt2Spec::foreign_ignored(name);
  }

  std::string foreign_config() const override {
    nlohmann::ordered_json j;
    j["architectures"] = {"GPT"};
    j["model_type"] = "mhc_lite_gpt";
    j["bias"] = c_.bias;
    j["block_size"] = c_.block_size;
    j["dropout"] = c_.dropout;
    j["hyper_conn_n"] = c_.hyper_conn_n;
    j["hyper_conn_type"] = c_.hyper_conn_type;
    j["n_embd"] = c_.n_embd;
    j["n_head"] = c_.n_head;
    j["n_layer"] = c_.n_layer;
    j["vocab_size"] = c_.vocab_size;
    return j.dump(2) + "\n";
  }

 private:
  MhcLiteConfig c_;
};

}  // namespace mhc_lite_detail

std::unique_ptr<ModelSpec> make_mhc_lite_spec(const MhcLiteConfig& config,
                                              const ModelOptions& options) {
  return std::make_unique<mhc_lite_detail::MhcLiteSpec>(config, options);
}

}  // namespace strata
