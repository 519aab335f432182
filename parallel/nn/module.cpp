#include "parallel/nn/module.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "core/error.h"
#include "core/generation_cache.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/text.h"
#include "parallel/nn/linear_use.h"
#include "parallel/nn/probe.h"
#include "parallel/nn/structured_linear.h"

namespace strata {

Tensor Linear::operator()(const Tensor& x) const {
  if (structured_) return structured_->apply(x, bias_);
  return use_ ? use_->apply(x, weight_, bias_) : ops::linear(x, weight_, bias_);
}
Tensor RmsNorm::operator()(const Tensor& x) const { return ops::rms_norm(x, weight_, eps_); }
Tensor LayerNorm::operator()(const Tensor& x) const {
  return ops::layer_norm(x, weight_, bias_, eps_);
}

Module::Module(const ParallelLayout& layout) : layout_(layout) {}

Tensor Module::param(const std::string& name, Shape logical, ShardSpec shard, Init init,
                     ParamOptions options) {
  auto p = std::make_unique<Parameter>();
  p->meta.name = name;
  p->meta.logical = std::move(logical);
  p->meta.shard = std::move(shard);
  p->meta.kind = options.kind;
  p->meta.view = options.view;
  if (options.view == MatrixView::Segments && p->meta.shard.dim == 0)
    p->meta.matrix_rows = p->meta.shard.segments;
  p->meta.trainable = options.trainable;
  p->meta.fp32 = options.fp32;
  p->meta.weight_decay = options.weight_decay;
  p->meta.lr_scale = options.lr_scale;
  p->meta.model_wide = options.model_wide;
  STRATA_CHECK(!options.model_wide || !p->meta.shard.cut(), cat(name, " is model-wide and cut"));
  p->init = std::move(init);
  p->tp_index = layout_.tp_index();
  p->tp_size = layout_.tp_size();
  const at::ScalarType dtype =
      options.fp32 && layout_.dtype() != at::kDouble ? at::kFloat : layout_.dtype();
  p->value = at::empty({0}, at::TensorOptions().dtype(dtype).device(layout_.device()));
  Tensor handle = p->value;
  parameters_.push_back(std::move(p));
  after_exit_.push_back(false);
  identical_.push_back(false);
  return handle;
}

Linear Module::linear(const std::string& name, int64_t in, int64_t out, ShardSpec shard,
                      LinearOptions options) {
  if (options.structure.kind != LinearStructure::Kind::Dense)
    return structured_linear(name, in, out, std::move(shard), options);
  LinearRecord record{.name = name, .in = in, .out = out, .asked = shard, .role = options.role};
  record.weight = record.bias = record.second = parameters_.size();
  if (shard.dim == ShardSpec::kAutomatic) {
    record.use = std::make_shared<LinearUse>();
    shard = replicated();  // until the region knows better
  }
  const ShardSpec bias_shard = shard;
  Tensor weight = param(name + ".weight", {out, in}, std::move(shard),
                        options.weight_init.value_or(Init::normal(options.init_std)),
                        {.kind = options.kind, .view = options.view});
  if (options.view == MatrixView::Segments)
    parameters_.back()->meta.matrix_rows = record.asked.segments;
  Tensor bias;
  if (options.bias) bias = linear_bias(record, bias_shard, options.bias_init);
  linears_.push_back(record);
  return Linear(std::move(weight), std::move(bias), record.use);
}

Tensor Module::linear_bias(LinearRecord& record, ShardSpec shard, const Init& init) {
  const bool row_cut = shard.cut() && shard.dim == 1;
  if (row_cut) shard = replicated();
  record.bias = parameters_.size();
  const Tensor bias = param(record.name + ".bias", {record.out}, std::move(shard), init,
                            {.kind = ParamKind::Vector, .fp32 = true, .weight_decay = false});
  if (row_cut) {
    exit_biases_.push_back(bias);
    after_exit_.back() = true;
    return {};
  }
  return bias;
}

Linear Module::structured_linear(const std::string& name, int64_t in, int64_t out, ShardSpec shard,
                                 const LinearOptions& options) {
  if (shard.dim == ShardSpec::kAutomatic) shard = replicated();
  auto use = std::make_shared<StructuredUse>(in, out, shard, options.structure, layout_);
  LinearRecord record{.name = name, .in = in, .out = out, .asked = shard, .role = options.role};
  record.weight = record.bias = record.second = parameters_.size();
  for (const StructuredUse::Factor& factor : use->factors(name, options)) {
    record.second = parameters_.size();
    use->weights.push_back(param(name + factor.suffix, factor.logical, factor.shard, factor.init,
                                 {.kind = options.kind, .view = factor.view}));
    if (use->start) use->start->names.push_back(&parameters_.back()->meta.name);
  }
  Tensor bias;
  if (options.bias) bias = linear_bias(record, std::move(shard), use->bias_init(options));
  record.structured = use;
  linears_.push_back(record);
  return Linear(std::move(use), std::move(bias));
}

RmsNorm Module::rms_norm(const std::string& name, int64_t width, double eps) {
  return RmsNorm(param(name + ".weight", {width}, replicated(), Init::ones(),
                       {.fp32 = true, .weight_decay = false}),
                 eps);
}

LayerNorm Module::layer_norm(const std::string& name, int64_t width, double eps, bool bias) {
  Tensor weight = param(name + ".weight", {width}, replicated(), Init::ones(),
                        {.fp32 = true, .weight_decay = false});
  if (!bias) return LayerNorm(std::move(weight), Tensor(), eps);
  return LayerNorm(std::move(weight),
                   param(name + ".bias", {width}, replicated(), Init::zeros(),
                         {.fp32 = true, .weight_decay = false}),
                   eps);
}

Tensor Module::dropout(const std::string& site, const Tensor& x_BTD, double prob,
                       const Batch& batch) const {
  if (prob <= 0 || !batch.training) return x_BTD;
  const int parts = token_parts();
  const int64_t length = x_BTD.size(1) * parts;
  STRATA_CHECK(parts == 1 || length == batch.length(),
               cat(full_name_, ".", site, ": dropout of ", x_BTD.size(1), " tokens, but ",
                   batch.length(), " in ", parts, " parts lie outside regions"));
  return ops::dropout(x_BTD, prob,
                      {.seed = layout_.seed(),
                       .name = cat(full_name_, ".", site),
                       .step = static_cast<uint32_t>(batch.step),
                       .first_row = batch.first_row,
                       .first_token = parts == 1 ? 0 : x_BTD.size(1) * layout_.tp_index(),
                       .length = length});
}

int Module::token_parts() const noexcept {
  return layout_.strategy().sequence_parallel ? layout_.tp_size() : 1;
}

Tensor Module::own_tokens(const Tensor& x_BT) const {
  const int parts = token_parts();
  STRATA_CHECK(x_BT.size(1) % parts == 0,
               cat(full_name_, ": ", x_BT.size(1), " tokens in ", parts, " equal parts"));
  const int64_t part = x_BT.size(1) / parts;
  return parts == 1 ? x_BT : x_BT.narrow(1, part * layout_.tp_index(), part);
}

Tensor Module::recall(const Batch& batch, const std::string& slot) const {
  return batch.cache ? batch.cache->get(full_name_, slot) : Tensor();
}

void Module::remember(const Batch& batch, const std::string& slot, const Tensor& value) const {
  if (batch.cache) batch.cache->set(full_name_, slot, value);
}

Tensor Module::extend(const Batch& batch, const std::string& slot, const Tensor& x_BT) const {
  if (!batch.cache) return x_BT;
  const Tensor before = recall(batch, slot);
  const Tensor all = before.defined() ? at::cat({before, x_BT}, 1) : x_BT;
  remember(batch, slot, all);
  return all;
}

void Module::show(const Batch& batch, const std::string& what, const Tensor& value_BT) const {
  if (batch.probe) batch.probe->shown(full_name_, what, value_BT);
}

std::vector<Module::Owned> Module::collect(const std::string& prefix) {
  std::vector<Owned> out;
  collect_into(out, prefix, Place::Outside);
  return out;
}

void Module::collect_into(std::vector<Owned>& out, const std::string& prefix, Place place) {
  full_name_ = prefix.empty() ? prefix : prefix.substr(0, prefix.size() - 1);
  place = enter(place);
  const bool sequence_parallel = layout_.strategy().sequence_parallel;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    ParamMeta& meta = parameters_[i]->meta;
    if (!meta.model_wide) meta.name = prefix + meta.name;
    const bool identical = place == Place::Identical || identical_[i];
    const bool in_region = place == Place::Region && !identical;
    meta.sum_grad_over_tp = meta.trainable && !meta.model_wide && !meta.shard.cut() &&
                            layout_.tp_size() > 1 && !identical &&
                            (sequence_parallel || (in_region && !after_exit_[i]));
    out.push_back({parameters_[i].get(), in_region, after_exit_[i]});
  }
  for (auto& [name, child] : children_) {
    child->collect_into(out, name.empty() ? prefix : cat(prefix, name, "."), place);
    if (!child->is_region()) {
      exit_biases_.insert(exit_biases_.end(), child->exit_biases_.begin(),
                          child->exit_biases_.end());
    }
  }
}

Tensor Layer::logits(const Tensor&) {
  throw InternalError(cat("layer ", full_name(), " is not a head: it has no logits"));
}

}  // namespace strata
