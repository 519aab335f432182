#include "tests/support/lone_layer.h"

#include <gtest/gtest.h>

#include <cmath>

#include <numeric>

#include "core/text.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace lone_layer_detail {

ParallelLayout make_layout(const LayerStrategy& strategy, CommPool* pool, at::ScalarType dtype) {
  ParallelLayout::Parts parts;
  parts.strategy = strategy;
  parts.dtype = dtype;
  parts.seed = 7;
  parts.vocabulary_unit = 1;
  if (pool == nullptr) return ParallelLayout(parts);
  parts.tp = &pool->job();
  for (int size = 2; size < parts.tp->size(); size *= 2) {
    std::vector<std::vector<int>> groups;
    for (int first = 0; first < parts.tp->size(); first += size) {
      groups.emplace_back(size);
      std::iota(groups.back().begin(), groups.back().end(), first);
    }
    pool->create(groups);
    parts.replica_groups[size] = &pool->group(groups[static_cast<size_t>(parts.tp->rank() / size)]);
  }
  return ParallelLayout(parts);
}

}  // namespace lone_layer_detail

LoneLayer::LoneLayer(const Make& make, const std::string& prefix, LayerStrategy strategy,
                     CommPool* pool, at::ScalarType dtype)
    : layout_(lone_layer_detail::make_layout(strategy, pool, dtype)), layer_(make(layout_)) {
  for (const auto& owned : layer_->collect(prefix)) {
    Parameter& p = *owned.parameter;
    const Box all{std::vector<int64_t>(p.meta.logical.size(), 0), p.meta.logical};
    const Tensor whole = initial_values(p.meta, p.init, 5, all, p.value.scalar_type());
    p.value.set_data(take_part(whole, p.meta.shard, p.tp_index, p.tp_size).contiguous());
    p.value.requires_grad_(p.meta.trainable);
    parameters_.push_back(&p);
  }
  if (layer_->watches_weights()) layer_->weights_changed();
}

Tensor LoneLayer::forward(const Tensor& x, const Batch& batch) {
  if (auto* region = dynamic_cast<Region*>(layer_.get())) return (*region)(x, batch);
  return layer_->forward(x, batch);
}

LoneResult LoneLayer::run(const Tensor& x, const Batch& batch, const Tensor& dy) {
  for (Parameter* p : parameters_) p->value.mutable_grad().reset();
  const Tensor in = x.defined() ? x.detach().clone().requires_grad_() : Tensor();
  const Tensor y = forward(in, batch);
  y.backward(dy);
  LoneResult out;
  out.y = y.detach();
  if (in.defined()) out.dx = in.grad();
  for (Parameter* p : parameters_) {
    if (!p->meta.trainable) continue;
    EXPECT_TRUE(p->value.grad().defined()) << p->meta.name;
    Tensor grad = p->value.grad().clone();
    const int ranks = p->meta.model_wide ? layout_.tp_size() : p->grad_sum_ranks();
    layout_.tp_subgroup(ranks).all_reduce(grad).wait();
    out.gradients[p->meta.name] = grad;
  }
  return out;
}

Tensor LoneLayer::own_tokens(const Tensor& whole) const {
  if (!layout_.strategy().sequence_parallel) return whole;
  return whole.chunk(layout_.tp_size(), 1)[static_cast<size_t>(layout_.tp_index())].contiguous();
}

Tensor normal_values(const Shape& shape, uint64_t seed, at::ScalarType dtype) {
  const ParamMeta like{.name = "values", .logical = shape};
  return initial_values(like, Init::normal(1), seed, {Shape(shape.size(), 0), shape}, dtype);
}

void expect_part_of(const LoneLayer& layer, const LoneResult& parallel, const LoneResult& serial,
                    double limit, const std::string& what) {
  const auto own = [&](const Tensor& t) { return t.dim() == 3 ? layer.own_tokens(t) : t; };
  EXPECT_LE(relative_error(parallel.y, own(serial.y), serial.y), limit) << what << " output";
  if (serial.dx.defined()) {
    EXPECT_LE(relative_error(parallel.dx, own(serial.dx), serial.dx), limit) << what << " dx";
  }
  double squares = 0;
  for (const auto& [name, g] : serial.gradients) squares += g.square().sum().item<double>();
  for (const Parameter* p : layer.parameters()) {
    if (!p->meta.trainable) continue;
    const std::string& name = p->meta.name;
    const Tensor& whole = serial.gradients.at(name);
    const Tensor part = take_part(whole, p->meta.shard, p->tp_index, p->tp_size);
    const double error =
        zero_but_for_rounding(name)
            ? gradient_error(name, parallel.gradients.at(name), part, std::sqrt(squares))
            : relative_error(parallel.gradients.at(name), part, whole);
    EXPECT_LE(error, limit) << what << " gradient of " << name;
    if (!zero_but_for_rounding(name)) {
      EXPECT_GT(whole.norm().item<double>(), 0) << what << " gradient of " << name;
    }
  }
}

}  // namespace strata::testing
