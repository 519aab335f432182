#pragma once
// What changes of layout between layers cost: for `strata plan show` and planners. Pure.
#include <cstdint>
#include <vector>

#include "parallel/plan/plan.h"

namespace strata {

// Activations change owner in front of a layer. Tokens (of one micro-batch, each a vector of the
// border's width) that the busiest rank of the stage receives from others: what
// relayout_plan().received_elements() is at most, without building its lists.
struct BorderTraffic {
  int layer = 0;
  int64_t forward = 0, backward = 0;
};
// One per layer that cuts rows or tokens differently than the layer before it. At stage borders the
// receiving stage does it, after the transfer from rank to rank. The plan's numbers must fit.
std::vector<BorderTraffic> border_traffic(const Plan& plan, int64_t time);

}  // namespace strata
