#pragma once
// Choosing the next token, and continuing a text with it.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "parallel/engine/manager.h"

namespace strata {

struct SamplingOptions {
  double temperature = 1;  // 0: the likeliest token (the lowest id on ties)
  int64_t top_k = 0;       // 0: no limit
  double top_p = 1;        // likeliest tokens that together reach this probability
  uint64_t seed = 1;
};

// Token of position `position` of sample number `sample`, from logits [V] on any device. A pure
// function of its arguments: Gumbel noise comes from Rng(seed, "sample", "token") at (sample,
// position, id), so the layout, the number of ranks and the order of evaluation change nothing.
int64_t choose_token(const Tensor& logits_V, const SamplingOptions& options, int64_t sample,
                     int64_t position);

// Continues `prompt` by `tokens` ids. Families that remember (ModelSpec::generates_from_cache) run
// each token once, recurrent ones in memory that does not grow; the others, and texts longer than
// the model's positions, recompute a sliding window of `context` tokens each time. Collective:
// every rank passes the same arguments and gets the same result. each(id) is called as soon as an
// id is known; false ends the text early.
std::vector<int32_t> generate(ParallelManager& model, std::vector<int32_t> prompt, int64_t tokens,
                              int64_t context, const SamplingOptions& options, int64_t sample,
                              const std::function<bool(int32_t)>& each = {});

}  // namespace strata
