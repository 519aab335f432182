#include "parallel/nn/layout.h"

#include "core/error.h"
#include "core/text.h"

namespace strata {

ParallelLayout::ParallelLayout(const Parts& parts) : parts_(parts) {
  self_ = make_self_communicator();
  if (!parts_.tp) parts_.tp = self_.get();
  if (!parts_.dp) parts_.dp = self_.get();
}

Communicator& ParallelLayout::tp_subgroup(int ranks) const {
  if (ranks == 1) return *self_;
  if (ranks == tp_size()) return tp();
  const auto it = parts_.replica_groups.find(ranks);
  STRATA_CHECK(it != parts_.replica_groups.end(),
               cat("no group of ", ranks, " replicas inside ", tp().name()));
  return *it->second;
}

ParallelLayout ParallelLayout::serial(at::Device device, at::ScalarType dtype, uint64_t seed) {
  Parts parts;
  parts.device = device;
  parts.dtype = dtype;
  parts.seed = seed;
  return ParallelLayout(parts);
}

}  // namespace strata
