#include "launch/desync.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "core/text.h"

namespace strata {

void check_sequences(CommPool& pool) {
  for (Communicator* comm : pool.all()) {
    if (comm->size() == 1 || comm->backend() == "null") continue;
    const auto count = static_cast<int64_t>(comm->sequence());
    const auto hash = static_cast<int64_t>(comm->sequence_hash() >> 1);
    // The maximum of x and of -x are equal up to sign exactly when all values are.
    Tensor extremes = at::empty({4}, at::TensorOptions().dtype(at::kLong));
    int64_t* e = extremes.mutable_data_ptr<int64_t>();
    e[0] = count;
    e[1] = -count;
    e[2] = hash;
    e[3] = -hash;
    comm->all_reduce(extremes, ReduceOp::Max, {0, SiteOp::Check}).wait_host();
    if (e[0] == -e[1] && e[2] == -e[3]) continue;
    throw DesyncError(cat("The ranks of ", comm->name(), " issued different collectives: this one ",
                          count, " of them, others between ", -e[1], " and ", e[0],
                          e[0] == -e[1] ? " but not the same ones" : "",
                          ". comm.check = each names the first that differs."));
  }
}

}  // namespace strata
