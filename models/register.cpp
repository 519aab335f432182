#include "models/register.h"

#include <nlohmann/json.hpp>

#include "core/config/json_reader.h"
#include "core/config/visitor.h"
#include "core/text.h"
#include "models/deltaproduct/spec.h"
#include "models/gla/spec.h"
#include "models/gpt2/spec.h"
#include "models/hydra/spec.h"
#include "models/llama/spec.h"
#include "models/matmul_free/spec.h"
#include "models/mhc_lite/spec.h"

namespace strata {
namespace register_detail {

// transformers 5 writes {"rope_parameters": {"rope_theta", "rope_type", ...}}; older files
// "rope_theta" and "rope_scaling", older still with "type" for "rope_type". One form reaches the
// family's visit().
void normalise_rope(nlohmann::json& j) {
  if (j.contains("rope_parameters") && j["rope_parameters"].is_object()) {
    nlohmann::json parameters = j["rope_parameters"];
    if (parameters.contains("rope_theta")) {
      j["rope_theta"] = parameters["rope_theta"];
      parameters.erase("rope_theta");
    }
    j["rope_scaling"] = parameters;
    j.erase("rope_parameters");
  }
  if (j.contains("rope_scaling") && j["rope_scaling"].is_object()) {
    nlohmann::json& scaling = j["rope_scaling"];
    if (scaling.contains("type") && !scaling.contains("rope_type"))
      scaling["rope_type"] = scaling["type"];
    scaling.erase("type");
  }
}

// Python writes Infinity, which JSON does not know; the largest number means the same here.
std::string without_infinity(std::string text) {
  const std::string word = "Infinity";
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at)) {
    const bool quoted = (at > 0 && text[at - 1] == '"') ||
                        (at + word.size() < text.size() && text[at + word.size()] == '"');
    if (quoted) {
      at += word.size();
    } else {
      text.replace(at, word.size(), "1e308");
    }
  }
  return text;
}

// "bert" with the matrix mixer of hydra is the hydra family. The authors' files do not say how
// padding is treated: their code lets it enter the scans.
bool is_hydra(const nlohmann::json& j) {
  const auto says = [&](const char* key, const char* value) {
    return j.contains(key) && j[key] == value;
  };
  return says("model_type", "bert") && says("matrix_mixer_type", "hydra");
}
void normalise_hydra(nlohmann::json& j) {
  if (is_hydra(j) && !j.contains("mask_pad")) j["mask_pad"] = false;
}

// The DeltaProduct paper's code calls the output gate "use_gate" and has one matrix per step
// ("k_projs.0"); newer files say "use_output_gate" and join the steps' matrices.
void normalise_deltaproduct(nlohmann::json& j) {
  if (!j.contains("use_gate")) return;
  j["use_output_gate"] = j["use_gate"];
  j.erase("use_gate");
  if (!j.contains("weight_layout")) j["weight_layout"] = "lists";
}

// The names that checkpoints of structured models use for the keys of LinearParts.
void normalise_structured(nlohmann::json& j) {
  if (j.contains("structured_linear")) {
    const nlohmann::json& kind = j["structured_linear"];
    j["linear"] = kind == "MonarchLinear"              ? nlohmann::json("monarch")
                  : kind == "BlockdiagLinear"          ? nlohmann::json("blockdiag")
                  : kind == "LowRankLinear"            ? nlohmann::json("lowrank")
                  : kind.is_null() || kind == "Linear" ? nlohmann::json("dense")
                                                       : kind;
    j.erase("structured_linear");
  }
  const std::pair<const char*, const char*> names[] = {{"structured_targets", "linear_targets"},
                                                       {"nblocks", "linear_blocks"},
                                                       {"shuffle", "linear_shuffle"}};
  for (const auto& [theirs, ours] : names) {
    if (!j.contains(theirs)) continue;
    j[ours] = j[theirs];
    j.erase(theirs);
  }
}

nlohmann::json parse(const std::string& text, const std::string& name) {
  nlohmann::json j = nlohmann::json::parse(without_infinity(text), nullptr, false);
  if (j.is_discarded() || !j.is_object())
    throw ConfigError(name, "text that is not a JSON object", "a config.json");
  return j;
}

}  // namespace register_detail

ModelRegistry model_registry(const ModelOptions& options, const ExtraFamilies& extra) {
  ModelRegistry registry("model.name");
  registry.add("llama", [options](ConfigVisitor& v) {
    LlamaConfig config;
    config.visit(v);
    return make_llama_spec(config, options);
  });
  registry.add("gpt2", [options](ConfigVisitor& v) {
    Gpt2Config config;
    config.visit(v);
    return make_gpt2_spec(config, options);
  });
  registry.add("gla", [options](ConfigVisitor& v) {
    GlaConfig config;
    config.visit(v);
    return make_gla_spec(config, options);
  });
  registry.add("hgrn_bit", [options](ConfigVisitor& v) {
    MatmulFreeConfig config;
    config.visit(v);
    return make_matmul_free_spec(config, options);
  });
  registry.add("mhc_lite_gpt", [options](ConfigVisitor& v) {
    MhcLiteConfig config;
    config.visit(v);
    return make_mhc_lite_spec(config, options);
  });
  registry.add("hydra", [options](ConfigVisitor& v) {
    HydraConfig config;
    config.visit(v);
    return make_hydra_spec(config, options);
  });
  for (const char* family : {"gated_deltaproduct", "delta_net", "gated_deltanet"}) {
    registry.add(family, [options, family](ConfigVisitor& v) {
      DeltaProductConfig config(family);
      config.visit(v);
      return make_deltaproduct_spec(config, options);
    });
  }
  if (extra) extra(registry, options);
  return registry;
}

std::string family_of_config_json(const std::string& text, const std::string& name) {
  const nlohmann::json j = register_detail::parse(text, name);
  const auto names = model_registry().names();
  const std::string type = j.contains("model_type") && j["model_type"].is_string()
                               ? j["model_type"].get<std::string>()
                               : "";
  if (type.empty()) throw ConfigError(cat(name, ": model_type"), "nothing", join(names));
  if (register_detail::is_hydra(j)) return "hydra";
  if (type == "bert") {
    const bool mixer = j.contains("matrix_mixer_type");
    throw ConfigError(cat(name, ": matrix_mixer_type"),
                      mixer ? j["matrix_mixer_type"].dump() : "nothing", "\"hydra\"",
                      " (of the models that call themselves bert)");
  }
  if (!model_registry().contains(type)) {
    throw ConfigError(cat(name, ": model_type"), cat('"', type, '"'), join(names),
                      did_you_mean(type, names));
  }
  return type;
}

void visit_config_json(const std::string& text, const std::string& name,
                       const std::function<void(const std::string&, ConfigVisitor&)>& use) {
  const std::string family = family_of_config_json(text, name);
  nlohmann::json j = register_detail::parse(text, name);
  register_detail::normalise_rope(j);
  register_detail::normalise_hydra(j);
  if (family == "gated_deltaproduct") register_detail::normalise_deltaproduct(j);
  register_detail::normalise_structured(j);
  JsonConfigReader reader(j.dump(), name);
  use(family, reader.visitor());
  reader.finish();
}

std::unique_ptr<ModelSpec> make_model_from_json(const std::string& text, const std::string& name,
                                                const ModelOptions& options) {
  // Contradictions are reported before a spec is used.
  std::unique_ptr<ModelSpec> spec;
  visit_config_json(text, name, [&](const std::string& family, ConfigVisitor& visitor) {
    spec = model_registry(options).make(family, visitor);
  });
  return spec;
}

}  // namespace strata
