#pragma once
// What a model folder exports: its layers, their names and costs, and how its weights are called
// elsewhere.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/range.h"
#include "core/registry.h"
#include "parallel/nn/module.h"

namespace strata {

class ConfigVisitor;

// One storage used by several layers: tied embeddings, which have one strategy, or parameters that
// are model-wide (ParamMeta).
struct SharedParameter {
  std::string name;
  std::vector<int> layers;           // the first is the owner for norm, checkpoint and count
  std::vector<std::string> aliases;  // further names of it in the family's files
  bool model_wide = false;
};

// Where a parameter lies in the family's own files.
struct ForeignTensor {
  std::string name;
  bool transposed = false;  // stored [in, out]
  // The parameter is these rows of a tensor that others share (fused projections whose parts are
  // cut differently); empty: all of it. The parts of a tensor cover it together.
  Range rows = {};

  bool part() const noexcept { return rows.size() > 0; }
  // Not empty: files have these instead of `name`, the parameter cut along dimension 0.
  std::vector<std::string> parts = {};

  std::vector<std::string> names() const {
    return parts.empty() ? std::vector<std::string>{name} : parts;
  }
};

class ModelSpec {
 public:
  virtual ~ModelSpec() = default;
  virtual std::string family() const = 0;
  virtual int layer_count() const = 0;                  // embedding, blocks, head
  virtual std::string layer_name(int layer) const = 0;  // "model.layers.3"
  // Prefix of the layer's parameter names; default layer_name + ".".
  virtual std::string parameter_prefix(int layer) const { return layer_name(layer) + "."; }
  virtual std::string cost_class(int layer) const = 0;  // equal text, equal cost
  virtual std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const = 0;
  // Shape of the activation a layer hands on, for `rows` logical rows of `time` tokens.
  virtual Shape boundary(int layer, int64_t rows, int64_t time) const = 0;
  // Matrix-multiply FLOPs of one forward pass per token, attention counted over the full context.
  virtual double flops_per_token(int layer, int64_t time) const = 0;
  virtual int64_t vocabulary() const = 0;
  virtual int64_t max_positions() const { return 0; }  // 0: unlimited
  virtual bool causal() const { return true; }
  // Every layer can go on from what it remembers in Batch::cache: a text is continued one token at
  // a time. Otherwise the whole text is run again for each token.
  virtual bool generates_from_cache() const { return false; }
  virtual std::vector<SharedParameter> shared_parameters() const { return {}; }

  // Name and form of a parameter in the family's files; default: the same.
  virtual ForeignTensor foreign(const std::string& parameter) const { return {parameter, false}; }
  // Further names under which files may have it, read where foreign()'s name is not there.
  virtual std::vector<std::string> foreign_aliases(const std::string& /*parameter*/) const {
    return {};
  }
  // Tensors of foreign files that are no parameters (buffers such as rotary_emb.inv_freq,
  // attn.bias, a tied lm_head).
  virtual bool foreign_ignored(const std::string& name) const { return false; }
  // The family's config.json for this model.
  virtual std::string foreign_config() const = 0;

  // Parameters whose names match one of the globs are not trained: they have no gradient, no
  // optimizer state and no share in the norm. Called before the model is used; cuts over tp stay
  // what they are without.
  void freeze(std::vector<std::string> globs) { frozen_ = std::move(globs); }
  bool frozen(const std::string& parameter) const;

 private:
  std::vector<std::string> frozen_;
};

using ModelRegistry = Registry<ModelSpec, ConfigVisitor&>;

// Parameters of a layer that make_layer() made, with their full names; frozen ones are marked.
// Called once for each.
std::vector<Module::Owned> collect_layer(const ModelSpec& spec, int layer, Module& module);

// Metas of all parameters in layer order, built on the meta device; shared ones once. Pure.
std::vector<ParamMeta> parameter_metas(const ModelSpec& spec);

}  // namespace strata
