#pragma once
// One row of the layout matrix against the run of one process.
#include "tests/support/layout_matrix.h"

namespace strata::testing {

// Collective over the job, whose size is row.world(). Initial weights bit for bit; loss, norm and
// each gradient of step 1 to 1e-12; with steps > 1 the weights after them to 1e-11 (fp64).
void expect_like_one_process(const LayoutRow& row, int64_t steps);

// Everything one step and a few more leave behind, for comparing two layouts bit for bit. On the
// first rank; elsewhere empty.
struct Bits {
  double loss = 0, norm = 0, last_loss = 0;
  std::map<std::string, Tensor> gradients, weights;
};
Bits bits_of(const TinyModel& model, const RunSetup& setup, std::unique_ptr<Communicator> job,
             int64_t steps = 3);
void expect_same_bits(const Bits& a, const Bits& b, const std::string& what);

}  // namespace strata::testing
