#include "parallel/nn/layout.h"

namespace strata {

ParallelLayout::ParallelLayout(const Parts& parts) : parts_(parts) {
  if (!parts_.tp || !parts_.dp) self_ = make_self_communicator();
  if (!parts_.tp) parts_.tp = self_.get();
  if (!parts_.dp) parts_.dp = self_.get();
}

ParallelLayout ParallelLayout::serial(at::Device device, at::ScalarType dtype, uint64_t seed) {
  Parts parts;
  parts.device = device;
  parts.dtype = dtype;
  parts.seed = seed;
  return ParallelLayout(parts);
}

}  // namespace strata
