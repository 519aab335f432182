#include "parallel/engine/grad_reducer.h"

#include <chrono>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace strata {

void GradReducer::add_layer(const ParallelLayout& layout,
                            const std::vector<Parameter*>& parameters) {
  std::vector<Buffer> buffers;
  std::set<int> groups;
  for (Parameter* p : parameters) groups.insert(p->grad_sum_ranks());
  for (int ranks : groups) {
    std::vector<Parameter*> members;
    std::vector<int64_t> sizes;
    for (Parameter* p : parameters) {
      if (!p->meta.trainable || p->grad_sum_ranks() != ranks) continue;
      members.push_back(p);
      sizes.push_back(p->value.numel());
    }
    if (members.empty()) continue;
    Communicator& partial = layout.tp_subgroup(ranks);
    Communicator& home = layout.dp().size() > 1 ? layout.dp() : partial;
    Buffer buffer{layout, &partial, std::move(members), make_flat_layout(sizes, layout.dp().size()),
                  Tensor()};
    buffer.data = home.allocate(buffer.flat.size, accumulate_dtype(layout.dtype()));
    for (size_t i = 0; i < buffer.parameters.size(); ++i) {
      Parameter& p = *buffer.parameters[i];
      p.grad = buffer.data.narrow(0, buffer.flat.slots[i].begin, buffer.flat.slots[i].elements)
                   .view(p.value.sizes());
    }
    buffers.push_back(std::move(buffer));
  }
  layers_.push_back(std::move(buffers));
}

void GradReducer::zero() {
  waited_s_ = 0;
  for (auto& layer : layers_) {
    for (Buffer& buffer : layer) buffer.data.zero_();
  }
}

void GradReducer::accumulate(const std::vector<Parameter*>& parameters) {
  for (Parameter* p : parameters) {
    Tensor& g = p->value.mutable_grad();
    if (!g.defined()) continue;
    p->grad.add_(g);
    g.reset();
  }
}

void GradReducer::start(int layer) {
  const auto begin = std::chrono::steady_clock::now();
  for (Buffer& b : layers_.at(layer)) {
    b.partial->all_reduce(b.data, ReduceOp::Sum, b.layout.site(SiteOp::GradTensorSum)).wait();
    in_flight_.push_back(
        b.layout.dp().all_reduce(b.data, ReduceOp::Sum, b.layout.site(SiteOp::GradDataSum)));
  }
  for (Work& work : in_flight_) work.poll();
  waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void GradReducer::finish() {
  const auto begin = std::chrono::steady_clock::now();
  for (Work& work : in_flight_) work.wait();
  in_flight_.clear();
  waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Range GradReducer::norm_range(const Parameter& parameter) const {
  for (const auto& layer : layers_) {
    for (const Buffer& b : layer) {
      for (size_t i = 0; i < b.parameters.size(); ++i) {
        if (b.parameters[i] != &parameter) continue;
        if (!parameter.counts_in_norm()) return {};
        return overlap(b.flat.slots[i], b.flat.part(b.layout.dp().rank(), b.layout.dp().size()));
      }
    }
  }
  return {};
}

int64_t GradReducer::bytes() const {
  int64_t total = 0;
  for (const auto& layer : layers_) {
    for (const Buffer& b : layer) total += b.data.numel() * b.data.element_size();
  }
  return total;
}

}  // namespace strata
