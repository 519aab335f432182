#include "parallel/engine/gradient_buffer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {

ScratchRing::ScratchRing(Communicator& shards, int64_t elements, int64_t part,
                         at::ScalarType dtype) {
  for (int i = 0; i < 2; ++i) {
    Tensor whole = shards.allocate(elements, dtype);
    slots_.push_back({whole, at::empty({part}, whole.options()), nullptr});
  }
}

ScratchRing::Slot& ScratchRing::next() {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  if (slot.user != nullptr) slot.user->settle();
  return slot;
}

int64_t ScratchRing::bytes() const {
  int64_t total = 0;
  for (const Slot& s : slots_) total += (s.whole.numel() + s.part.numel()) * s.whole.element_size();
  return total;
}

GradientBuffer::GradientBuffer(const ParallelLayout& layout, const FlatLayout& flat,
                               const Options& options)
    : layout_(layout),
      flat_(flat),
      partial_(&layout.tp_subgroup(options.sum_ranks)),
      options_(options) {
  Communicator& shards = layout.shards();
  const Range part = flat.part(shards.rank(), shards.size());
  Communicator& home = shards.size() > 1        ? shards
                       : layout.dp().size() > 1 ? layout.dp()
                                                : *partial_;
  if (layout.zero() >= 2) {
    STRATA_CHECK(!options.canonical, "canonical sums need ZeRO 0 or 1");
    // What is allocated together must be of equal length.
    own_ = flat.aligned()
               ? at::zeros({part.size()},
                           at::TensorOptions().dtype(options.dtype).device(layout.device()))
               : home.allocate(part.size(), options.dtype);
  } else {
    whole_ = home.allocate(flat.size, options.dtype);
    own_ = whole_.narrow(0, part.begin, part.size());
    levels_.push_back(whole_);
  }
}

int64_t GradientBuffer::bytes() const {
  int64_t total = whole_.defined() ? 0 : own_.numel();
  for (const Tensor& level : levels_) total += level.numel();
  return total * own_.element_size();
}

// The gaps between parameters stay zero: whole buffers begin as zeros and scratch ones are cleared.
void GradientBuffer::write(const Tensor& to, const std::vector<Parameter*>& parameters,
                           bool sum) const {
  for (size_t i = 0; i < parameters.size(); ++i) {
    Tensor& g = parameters[i]->value.mutable_grad();
    if (sum && !g.defined()) continue;
    Tensor slot = to.narrow(0, flat_.slots[i].begin, flat_.slots[i].elements);
    if (!g.defined()) {
      slot.zero_();
      continue;
    }
    slot = slot.view(parameters[i]->value.sizes());
    if (sum) {
      slot.add_(g);
    } else {
      slot.copy_(g);
    }
    g.reset();
  }
}

void GradientBuffer::add(const std::vector<Parameter*>& parameters, ScratchRing* ring) {
  if (layout_.zero() >= 2) {
    add_scattered(parameters, *ring);
  } else if (options_.canonical) {
    add_canonical(parameters);
  } else {
    write(whole_, parameters, !fresh_);
  }
  fresh_ = false;
}

void GradientBuffer::add_canonical(const std::vector<Parameter*>& parameters) {
  const size_t level = depth_.size();
  if (level == levels_.size()) levels_.push_back(at::zeros({flat_.size}, whole_.options()));
  write(levels_[level], parameters, false);
  depth_.push_back(1);
  while (depth_.size() > 1 && depth_[depth_.size() - 2] == depth_.back()) {
    levels_[depth_.size() - 2].add_(levels_[depth_.size() - 1]);
    depth_.pop_back();
    depth_.back() *= 2;
  }
}

void GradientBuffer::add_scattered(const std::vector<Parameter*>& parameters, ScratchRing& ring) {
  settle();
  ScratchRing::Slot& slot = ring.next();
  const Tensor whole = slot.whole.narrow(0, 0, flat_.size);
  int64_t end = 0;
  for (const FlatSlot& s : flat_.slots) {
    whole.narrow(0, end, s.begin - end).zero_();
    end = s.begin + s.elements;
  }
  whole.narrow(0, end, flat_.size - end).zero_();
  write(whole, parameters, false);
  add_part_ = !fresh_;
  const Tensor to = add_part_ ? slot.part.narrow(0, 0, own_.numel()) : own_;
  in_flight_ = scatter(to, whole);
  slot_ = &slot;
  slot.user = this;
}

void GradientBuffer::reduce() {
  if (layout_.zero() >= 2) return;
  STRATA_CHECK(depth_.size() <= 1, "canonical sums need a power of two of micro-batches");
  in_flight_ =
      layout_.shards().size() > 1
          ? scatter(own_, whole_)
          : layout_.copies().all_reduce(own_, ReduceOp::Sum, layout_.site(SiteOp::GradDataSum));
}

Work GradientBuffer::scatter(const Tensor& part, const Tensor& whole) const {
  const Site site = layout_.site(SiteOp::GradDataSum);
  return flat_.aligned() ? layout_.shards().reduce_scatter_parts(part, whole, flat_.borders, site)
                         : layout_.shards().reduce_scatter(part, whole, site);
}

void GradientBuffer::settle() {
  in_flight_.wait();
  if (slot_ == nullptr) return;
  if (add_part_) own_.add_(slot_->part.narrow(0, 0, own_.numel()));
  slot_->user = nullptr;
  slot_ = nullptr;
}

void GradientBuffer::start_final() {
  settle();
  if (layout_.shards().size() > 1 && layout_.copies().size() > 1) {
    layout_.copies().all_reduce(own_, ReduceOp::Sum, layout_.site(SiteOp::GradDataSum)).wait();
  }
  in_flight_ = partial_->all_reduce(own_, ReduceOp::Sum, layout_.site(SiteOp::GradTensorSum));
}

}  // namespace strata
