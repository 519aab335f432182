#include "parallel/nn/layout.h"

#include "core/error.h"
#include "core/text.h"

namespace strata {

ParallelLayout::ParallelLayout(const Parts& parts) : parts_(parts) {
  self_ = make_self_communicator();
  if (!parts_.tp) parts_.tp = self_.get();
  if (!parts_.dp) parts_.dp = self_.get();
  if (!parts_.shards) parts_.shards = self_.get();
  if (!parts_.copies) parts_.copies = parts_.shards->size() > 1 ? self_.get() : parts_.dp;
  STRATA_CHECK(parts_.shards->size() * parts_.copies->size() == parts_.dp->size(),
               cat("dp ", parts_.dp->size(), " is not shards ", parts_.shards->size(), " x copies ",
                   parts_.copies->size()));
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
