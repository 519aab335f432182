#include "parallel/engine/sequence_check.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "core/text.h"

namespace strata {

void check_sequences(CommPool& pool) {
  std::vector<std::string> wrong;
  for (Communicator* comm : pool.all()) {
    if (comm->size() == 1) continue;
    // Maximum of x and of ~x: equal on all members when both come back unchanged.
    Tensor word = at::empty({4}, at::TensorOptions().dtype(at::kLong));
    int64_t* w = word.data_ptr<int64_t>();
    const auto hash = static_cast<int64_t>(comm->sequence_hash()), sequence = static_cast<int64_t>(comm->sequence());
    w[0] = hash;
    w[1] = ~hash;
    w[2] = sequence;
    w[3] = ~sequence;
    comm->all_reduce(word, ReduceOp::Max, {0, SiteOp::Check}).wait_host();
    if (w[0] != hash || w[1] != ~hash) {
      wrong.push_back(cat(comm->name(), " (operations issued: this rank ", sequence, ", members ", ~w[3], " to ", w[2], ")"));
    }
  }
  if (!wrong.empty()) {
    throw DesyncError(cat("ranks issued different collectives on ", join(wrong),
                          "; run again with comm.check = each to see the first one"));
  }
}

}  // namespace strata
