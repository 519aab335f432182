#include "parallel/engine/parameter_buffers.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <tuple>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace parameter_buffers_detail {

// Adds the seconds until its end to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum), begin_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() {
    sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  double& sum_;
  std::chrono::steady_clock::time_point begin_;
};

std::vector<int64_t> sizes_of(const std::vector<Parameter*>& parameters) {
  std::vector<int64_t> out;
  for (const Parameter* p : parameters) {
    out.push_back(
        element_count(local_shape(p->meta.shard, p->meta.logical, p->tp_index, p->tp_size)));
  }
  return out;
}

FlatLayout layout_of(const std::vector<Parameter*>& parameters, const ParallelLayout& layout,
                     const ParameterBuffers::Homes& homes) {
  std::vector<int> parts;
  for (const Parameter* p : parameters) {
    const auto home = homes.find(p);
    if (home != homes.end()) parts.push_back(home->second);
  }
  if (parts.empty()) return make_flat_layout(sizes_of(parameters), layout.dp().size());
  STRATA_CHECK(parts.size() == parameters.size(),
               cat(parameters.front()->meta.name, ": matrices and others in one buffer"));
  return make_aligned_layout(sizes_of(parameters), parts, layout.shards().size());
}

}  // namespace parameter_buffers_detail

void ParameterBuffers::add_layer(int layer, const ParallelLayout& layout,
                                 const std::vector<Parameter*>& parameters,
                                 const std::map<std::string, Tie>& ties, const Homes& homes) {
  layers_[layer];
  // Values, trainable, tp ranks to sum over, aligned.
  using Key = std::tuple<at::ScalarType, bool, int, bool>;
  std::map<Key, std::vector<Parameter*>> groups;
  for (Parameter* p : parameters) {
    const auto tie = ties.find(p->meta.name);
    if (tie != ties.end()) {
      add_group(layer, layout, {p}, &tie->second, homes);
    } else {
      groups[{p->value.scalar_type(), p->meta.trainable, p->grad_sum_ranks(), homes.count(p) > 0}]
          .push_back(p);
    }
  }
  for (auto& [key, members] : groups) {
    // In the order in which they lie in an aligned buffer.
    if (std::get<3>(key)) {
      std::stable_sort(members.begin(), members.end(),
                       [&](Parameter* a, Parameter* b) { return homes.at(a) < homes.at(b); });
    }
    add_group(layer, layout, std::move(members), nullptr, homes);
  }
}

void ParameterBuffers::add_group(int layer, const ParallelLayout& of_layer,
                                 std::vector<Parameter*> parameters, const Tie* tie,
                                 const Homes& homes) {
  const ParallelLayout& layout = tie != nullptr && tie->layout ? *tie->layout : of_layer;
  auto group = std::make_unique<Group>();
  Group& g = *group;
  g.parameters = std::move(parameters);
  g.shards = &layout.shards();
  const Parameter& front = *g.parameters.front();
  if (tie != nullptr) {
    g.stages = tie->stages;
    g.uses = tie->uses;
    Group*& first = first_uses_[front.meta.name];
    if (first == nullptr) {
      first = &g;
    } else {
      g.first_use = first;
      const ParamMeta &a = first->parameters.front()->meta, &b = front.meta;
      STRATA_CHECK(a.logical == b.logical && a.shard == b.shard,
                   cat(a.name, " is shared by layers that disagree on its shape"));
    }
  }
  const FlatLayout flat = parameter_buffers_detail::layout_of(g.parameters, layout, homes);
  g.values = std::make_unique<ValueBuffer>(layout, g.parameters, flat,
                                           g.first_use ? g.first_use->values.get() : nullptr);
  if (front.meta.trainable) {
    if (g.first_use && !canonical_) {
      g.gradients = g.first_use->gradients;
    } else {
      g.gradients = std::make_shared<GradientBuffer>(
          layout, flat,
          GradientBuffer::Options{.dtype = accumulate_dtype(layout.dtype()),
                                  .sum_ranks = front.grad_sum_ranks(),
                                  .canonical = canonical_});
    }
  }
  if (!g.first_use) {
    add_slices(g, layout, flat, tie == nullptr || tie->counted);
    for (size_t i = 0; i < g.parameters.size(); ++i) places_[g.parameters[i]] = {&g, i};
  }
  layers_[layer].push_back(std::move(group));
}

// Whoever owns equal parts counts them in turn: dp ranks share the norm evenly at every level.
void ParameterBuffers::add_slices(const Group& g, const ParallelLayout& layout,
                                  const FlatLayout& flat, bool counted) {
  const Range part = flat.part(layout.shards().rank(), layout.shards().size());
  const int64_t copies = layout.copies().size(), share = (part.size() + copies - 1) / copies;
  const int64_t first = std::min(part.end, part.begin + share * layout.copies().rank());
  const Range counted_here{first, std::min(part.end, first + share)};
  for (size_t i = 0; i < g.parameters.size(); ++i) {
    Parameter& p = *g.parameters[i];
    const FlatSlot& slot = flat.slots[i];
    OwnedSlice s{&p, overlap(slot, part), {}, {}, {}};
    if (s.update.size() == 0) continue;
    if (counted && g.gradients && p.counts_in_norm()) s.norm = overlap(slot, counted_here);
    if (s.norm.size() == 0) s.norm = {s.update.begin, s.update.begin};
    const int64_t at = slot.begin + s.update.begin - part.begin;
    s.value = g.values->own().narrow(0, at, s.update.size());
    if (g.gradients) s.grad = g.gradients->own().narrow(0, at, s.update.size());
    (g.gradients ? slices_ : frozen_).push_back(std::move(s));
  }
}

Range ParameterBuffers::held_by(const Parameter& parameter, int shard) const {
  const auto& [group, index] = places_.at(&parameter);
  const FlatLayout& flat = group->gradients->flat();
  return overlap(flat.slots[index], flat.part(shard, group->shards->size()));
}

void ParameterBuffers::build() {
  struct Largest {
    int64_t whole = 0, part = 0;
  };
  std::map<std::pair<Communicator*, at::ScalarType>, Largest> sizes;
  std::vector<std::pair<Communicator*, at::ScalarType>> order;  // alike on all ranks
  const auto for_scattered = [&](auto&& f) {
    for (auto& [layer, groups] : layers_) {
      for (auto& g : groups) {
        if (!g->gradients || g->gradients->level() < 2) continue;
        f(*g, std::pair(g->shards, g->gradients->own().scalar_type()));
      }
    }
  };
  for_scattered([&](Group& g, auto key) {
    if (sizes.count(key) == 0) order.push_back(key);
    Largest& largest = sizes[key];
    largest.whole = std::max(largest.whole, g.gradients->flat().size);
    largest.part = std::max(largest.part, g.gradients->own().numel());
  });
  for (const auto& key : order) {
    rings_[key] =
        std::make_unique<ScratchRing>(*key.first, sizes[key].whole, sizes[key].part, key.second);
  }
  for_scattered([&](Group& g, auto key) { g.ring = rings_.at(key).get(); });
}

void ParameterBuffers::fetch(int layer) {
  for (auto& g : layers_.at(layer)) g->values->fetch(pool_);
}
void ParameterBuffers::need(int layer) {
  fetch(layer);
  for (auto& g : layers_.at(layer)) g->values->need();
}
void ParameterBuffers::release(int layer) {
  for (auto& g : layers_.at(layer)) g->values->release(pool_);
}

void ParameterBuffers::values_changed() {
  std::vector<Work> gathers;
  for (auto& [layer, groups] : layers_) {
    for (auto& g : groups) gathers.push_back(g->values->gather());
  }
  for (Work& work : gathers) work.wait();
}

void ParameterBuffers::begin_step() {
  waited_s_ = 0;
  for (auto& [layer, groups] : layers_) {
    for (auto& g : groups) {
      if (g->gradients) g->gradients->begin_step();
    }
  }
}

void ParameterBuffers::add(int layer, bool last) {
  for (auto& g : layers_.at(layer)) {
    if (!g->gradients) continue;
    g->gradients->add(g->parameters, g->ring);
    if (last && !g->shares_gradient()) {
      const parameter_buffers_detail::Stopwatch watch(waited_s_);
      g->gradients->reduce();
    }
  }
}

void ParameterBuffers::finish() {
  const parameter_buffers_detail::Stopwatch watch(waited_s_);
  const auto for_own = [&](auto&& f) {
    for (auto& [layer, groups] : layers_) {
      for (auto& g : groups) {
        if (g->gradients && !g->shares_gradient()) f(*g);
      }
    }
  };
  for_own([](Group& g) { g.gradients->settle(); });
  for_own([](Group& g) { g.gradients->start_final(); });
  for_own([](Group& g) { g.gradients->settle(); });
  for_own([&](Group& g) {
    if (g.first_use && !by_layer(g)) g.first_use->gradients->own().add_(g.gradients->own());
  });
  for_own([&](Group& g) {
    if (g.stages == nullptr || g.first_use) return;
    if (by_layer(g)) return sum_by_layer(g);
    g.stages->all_reduce(g.gradients->own(), ReduceOp::Sum, {0, SiteOp::TiedSum}).wait();
  });
}

// Canonical sums of more than two uses in several stages: the sums of all layers come together
// (everywhere else they are zeros, which change no bit) and are added in the order of the layers.
bool ParameterBuffers::by_layer(const Group& g) const {
  return canonical_ && g.stages != nullptr && g.uses.size() > 2;
}

void ParameterBuffers::sum_by_layer(Group& first) {
  const Tensor own = first.gradients->own();
  const auto uses = static_cast<int64_t>(first.uses.size());
  const Tensor rows = at::zeros({uses, own.numel()}, own.options());
  for (int64_t use = 0; use < uses; ++use) {
    const auto layer = layers_.find(first.uses[static_cast<size_t>(use)]);
    if (layer == layers_.end()) continue;
    for (const auto& g : layer->second) {
      if (g.get() == &first || g->first_use == &first) rows[use].copy_(g->gradients->own());
    }
  }
  first.stages->all_reduce(rows, ReduceOp::Sum, {0, SiteOp::TiedSum}).wait();
  own.zero_();
  for (int64_t use = 0; use < uses; ++use) own.add_(rows[use]);
}

BufferBytes ParameterBuffers::bytes() const {
  BufferBytes out;
  for (const auto& [layer, groups] : layers_) {
    for (const auto& g : groups) {
      out.values += g->values->bytes();
      if (g->gradients && !g->shares_gradient()) out.gradients += g->gradients->bytes();
    }
  }
  out.gathered = pool_.bytes();
  for (const auto& [key, ring] : rings_) out.scratch += ring->bytes();
  return out;
}

}  // namespace strata
