#include "parallel/engine/manager.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "parallel/engine/grad_reducer.h"
#include "parallel/engine/layer_runner.h"
#include "parallel/plan/mesh.h"

namespace strata {
namespace manager_detail {

class Manager final : public ParallelManager {
 public:
  Manager(std::shared_ptr<const ModelSpec> spec, const Plan& plan, CommPool& pool,
          const ManagerOptions& options)
      : spec_(std::move(spec)), plan_(plan), pool_(pool), options_(options) {
    create_groups();
    build_layers();
    tie_shared();
    attach();
  }

  const ModelSpec& spec() const override { return *spec_; }
  const Plan& plan() const override { return plan_; }
  CommPool& pool() override { return pool_; }
  std::span<Parameter* const> parameters() override { return parameters_; }
  std::span<const OwnedSlice> owned_slices() const override { return owned_; }
  int64_t logical_elements() const override { return logical_elements_; }
  double exposed_reduction_s() const override { return reducer_.waited_s(); }
  int64_t buffer_bytes() const override { return reducer_.bytes(); }
  int loss_exponent() const override { return loss_exponent_; }

  Range rows_needed(int64_t microbatch) const override {
    const int64_t rows = plan_.rows_per_microbatch();
    const ParallelLayout& first = layers_.front().layout;
    const int64_t part = rows / first.dp().size();
    const int64_t begin = microbatch * rows + first.dp().rank() * part;
    return {begin, begin + part};
  }

  void load_weights(const WeightSource& source) override {
    at::NoGradGuard no_grad;
    for (Parameter* p : parameters_) p->value.copy_(read_local(source, *p, p->value.scalar_type()));
    weights_changed();
  }

  StepLoss forward_backward(std::span<const Batch> microbatches) override {
    STRATA_CHECK(static_cast<int64_t>(microbatches.size()) == plan_.microbatches,
                 cat(microbatches.size(), " micro-batches, the plan has ", plan_.microbatches));
    set_scale(microbatches);
    reducer_.zero();
    StepLoss loss;
    const int last = static_cast<int>(layers_.size()) - 1;
    for (size_t m = 0; m < microbatches.size(); ++m) {
      const Batch batch = on_device(microbatches[m], static_cast<int64_t>(m), true);
      Tensor x;
      for (auto& layer : layers_) x = layer.runner.forward(static_cast<int64_t>(m), x, batch);
      add_loss(loss, x, batch);
      Tensor dy = at::zeros({2}, x.options());
      dy.select(0, 0).fill_(std::ldexp(1.0, -loss_exponent_));
      for (int l = last; l >= 0; --l) {
        dy = layers_[l].runner.backward(static_cast<int64_t>(m), dy);
        GradReducer::accumulate(layers_[l].all);
        if (m + 1 == microbatches.size()) reducer_.start(l);
      }
    }
    reducer_.finish();
    return loss;
  }

  StepLoss forward_only(std::span<const Batch> microbatches) override {
    StepLoss loss;
    for (size_t m = 0; m < microbatches.size(); ++m) {
      const Batch batch = on_device(microbatches[m], static_cast<int64_t>(m), false);
      Tensor x;
      for (auto& layer : layers_) x = layer.runner.forward_only(x, batch);
      add_loss(loss, x, batch);
    }
    return loss;
  }

  Tensor logits(const Batch& rows) override {
    const Batch batch = on_device(rows, 0, false);
    Tensor x;
    for (size_t l = 0; l + 1 < layers_.size(); ++l) x = layers_[l].runner.forward_only(x, batch);
    return layers_.back().runner.layer().logits(x);
  }

  void weights_changed() override {
    for (auto& layer : layers_) layer.runner.layer().weights_changed();
  }

 private:
  struct Running {
    ParallelLayout layout;
    LayerRunner runner;
    std::vector<Parameter*> own;  // first occurrence
    std::vector<Parameter*> all;  // with tied ones, whose grad points at the owner's
  };

  void create_groups() {
    std::vector<std::vector<int>> groups;
    const auto metas = parameter_metas(*spec_);
    std::set<std::pair<int, int>> seen;
    for (const LayerStrategy& s : plan_.layers) {
      if (!seen.insert({s.dp, s.tp}).second) continue;
      const Mesh mesh(plan_.world_size, plan_.stages, s);
      for (MeshAxis axis : {MeshAxis::Data, MeshAxis::Tensor}) {
        for (auto& ranks : mesh.all_groups(axis)) groups.push_back(std::move(ranks));
      }
      std::set<int>& sizes = replica_sizes_[s.tp];
      for (const ParamMeta& meta : metas) {
        const int copies = meta.shard.cut() ? replicas(meta.shard, meta.logical, s.tp) : 1;
        if (copies > 1 && copies < s.tp) sizes.insert(copies);
      }
      for (int size : sizes) {
        for (const auto& tp : mesh.all_groups(MeshAxis::Tensor)) {
          for (size_t at = 0; at < tp.size(); at += size)
            groups.emplace_back(tp.begin() + at, tp.begin() + at + size);
        }
      }
    }
    pool_.create(std::move(groups));
  }

  void build_layers() {
    const int rank = pool_.job().rank();
    for (int l = 0; l < spec_->layer_count(); ++l) {
      const LayerStrategy& s = plan_.layers[l];
      const Mesh mesh(plan_.world_size, plan_.stages, s);
      ParallelLayout::Parts parts;
      parts.strategy = s;
      parts.tp = &pool_.group(mesh.group(MeshAxis::Tensor, rank));
      parts.dp = &pool_.group(mesh.group(MeshAxis::Data, rank));
      for (int size : replica_sizes_[s.tp]) {
        const auto tp = mesh.group(MeshAxis::Tensor, rank);
        const size_t first = mesh.coordinates(rank).tp / size * size;
        parts.replica_groups[size] =
            &pool_.group(std::vector<int>(tp.begin() + first, tp.begin() + first + size));
      }
      parts.layer = static_cast<uint16_t>(l);
      parts.device = options_.device;
      parts.dtype = options_.dtype;
      parts.seed = options_.seed;
      parts.vocabulary_unit = options_.vocabulary_unit;
      const ParallelLayout layout(parts);
      auto module = spec_->make_layer(l, layout);
      Running running{layout, LayerRunner(module, s.recompute), {}, {}};
      bool region_without_cut = s.tp > 1, has_region = false;
      for (const auto& owned : module->collect(spec_->parameter_prefix(l))) {
        running.all.push_back(owned.parameter);
        has_region = has_region || owned.in_region;
        if (owned.in_region && owned.parameter->meta.shard.cut()) region_without_cut = false;
      }
      STRATA_CHECK(!(has_region && region_without_cut),
                   cat(spec_->layer_name(l),
                       ": a region without cut weights would be counted once per tp rank"));
      layers_.push_back(std::move(running));
    }
  }

  // Later occurrences of a name share storage and gradient with the first.
  void tie_shared() {
    for (auto& layer : layers_) {
      for (Parameter* p : layer.all) {
        auto [it, first] = by_name_.emplace(p->meta.name, p);
        if (first) {
          layer.own.push_back(p);
          parameters_.push_back(p);
          logical_elements_ += p->meta.trainable ? p->meta.elements() : 0;
        } else {
          STRATA_CHECK(it->second->meta.logical == p->meta.logical &&
                           it->second->meta.shard == p->meta.shard,
                       cat(p->meta.name, " is shared by layers that disagree on its shape"));
        }
      }
    }
  }

  void attach() {
    at::NoGradGuard no_grad;
    for (Parameter* p : parameters_) {
      const Shape shape = local_shape(p->meta.shard, p->meta.logical, p->tp_index, p->tp_size);
      p->value.set_data(at::empty(shape, p->value.options()));
      p->value.requires_grad_(p->meta.trainable);
    }
    for (auto& layer : layers_) {
      for (Parameter* p : layer.all) {
        Parameter* owner = by_name_.at(p->meta.name);
        if (owner == p) continue;
        p->value.set_data(owner->value.detach());
        p->value.requires_grad_(p->meta.trainable);
      }
    }
    for (auto& layer : layers_) reducer_.add_layer(layer.layout, layer.own);
    for (auto& layer : layers_) {
      for (Parameter* p : layer.all) p->grad = by_name_.at(p->meta.name)->grad;
    }
    for (Parameter* p : parameters_) {
      if (!p->meta.trainable) continue;
      owned_.push_back({p, {0, p->value.numel()}, reducer_.norm_range(*p)});
    }
  }

  Batch on_device(const Batch& batch, int64_t microbatch, bool training) const {
    Batch out = batch;
    for (Tensor* t : {&out.tokens, &out.labels, &out.positions, &out.segments}) {
      if (t->defined()) *t = t->to(options_.device);
    }
    if (!out.positions.defined())
      out.positions = default_positions(out.rows(), out.length()).to(options_.device);
    out.training = training;
    if (training) out.first_row = rows_needed(microbatch).begin;
    return out;
  }

  void set_scale(std::span<const Batch> microbatches) {
    const int64_t length = microbatches.empty() ? 1 : microbatches[0].length();
    loss_exponent_ =
        static_cast<int>(std::lround(std::log2(static_cast<double>(plan_.global_batch * length))));
  }

  // The loss is identical on all ranks of a tp group: its first rank counts it.
  void add_loss(StepLoss& loss, const Tensor& result, const Batch& batch) const {
    if (layers_.back().layout.tp_index() != 0) return;
    const Tensor host = result.to(at::kCPU, at::kDouble);
    loss.loss_sum += host.data_ptr<double>()[0];
    loss.correct += static_cast<int64_t>(std::llround(host.data_ptr<double>()[1]));
    loss.counted += batch.labels.ne(kIgnoreLabel).sum().item<int64_t>();
  }

  std::shared_ptr<const ModelSpec> spec_;
  Plan plan_;
  CommPool& pool_;
  ManagerOptions options_;
  std::vector<Running> layers_;
  std::map<int, std::set<int>>
      replica_sizes_;  // by tp: sizes of groups that hold the same replicated units
  std::map<std::string, Parameter*> by_name_;
  std::vector<Parameter*> parameters_;
  std::vector<OwnedSlice> owned_;
  GradReducer reducer_;
  int64_t logical_elements_ = 0;
  int loss_exponent_ = 0;
};

}  // namespace manager_detail

std::unique_ptr<ParallelManager> ParallelManager::build(std::shared_ptr<const ModelSpec> spec,
                                                        const Plan& plan, CommPool& pool,
                                                        const ManagerOptions& options) {
  return std::make_unique<manager_detail::Manager>(std::move(spec), plan, pool, options);
}

}  // namespace strata
