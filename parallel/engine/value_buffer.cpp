#include "parallel/engine/value_buffer.h"

#include <ATen/core/grad_mode.h>

namespace strata {

ValueBuffer::ValueBuffer(const ParallelLayout& layout, const std::vector<Parameter*>& parameters,
                         const FlatLayout& flat, ValueBuffer* same)
    : layout_(layout), shared_(same != nullptr), borders_(flat.borders) {
  at::NoGradGuard no_grad;
  Communicator& shards = layout.shards();
  const at::ScalarType dtype = parameters.front()->value.scalar_type();
  const Range part = flat.part(shards.rank(), shards.size());
  if (layout.zero() == 3) {
    transient_.emplace(flat.size, dtype, layout.device());
    whole_ = transient_->tensor();
    own_ = same ? same->own_ : shards.allocate(part.size(), dtype);
  } else {
    Communicator& home = shards.size() > 1 ? shards : layout.dp();
    whole_ = same ? same->whole_ : home.allocate(flat.size, dtype);
    own_ = whole_.narrow(0, part.begin, part.size());
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = *parameters[i];
    const Shape shape = local_shape(p.meta.shard, p.meta.logical, p.tp_index, p.tp_size);
    p.value.set_data(
        whole_.narrow(0, flat.slots[i].begin, flat.slots[i].elements).view(shape).detach());
    p.value.requires_grad_(p.meta.trainable);
  }
}

int64_t ValueBuffer::bytes() const {
  if (shared_) return 0;
  const Tensor& held = transient_ ? own_ : whole_;
  return held.numel() * held.element_size();
}

Work ValueBuffer::gather() {
  if (shared_ || transient_ || layout_.shards().size() == 1) return {};
  if (!borders_.empty())
    return layout_.shards().all_gather_parts(whole_, borders_, layout_.site(SiteOp::ParamGather));
  return layout_.shards().all_gather(whole_, own_, layout_.site(SiteOp::ParamGather));
}

void ValueBuffer::fetch(BlockPool& pool) {
  if (!transient_ || transient_->attached()) return;
  transient_->attach(pool);
  in_flight_ = layout_.shards().all_gather(whole_, own_, layout_.site(SiteOp::ParamGather));
}

void ValueBuffer::need() { in_flight_.wait(); }

void ValueBuffer::release(BlockPool& pool) {
  if (transient_ && transient_->attached()) transient_->detach(pool);
}

}  // namespace strata
