#pragma once
// Loss of a model on validation rows.
#include <cstdint>
#include <functional>
#include <memory>

#include "data/source.h"
#include "launch/metrics.h"
#include "parallel/engine/manager.h"

namespace strata {

// Collective. The first `rows` rows of `source` (0: one epoch), in groups of the plan's global
// batch; the last group is filled up with rows whose labels are ignored, so every row counts
// exactly once. bytes_per_token: of the tokenizer, 0 when not known. before_batch is called before
// each group. hidden: the nuclear norms of all layers' outputs too.
EvalResult evaluate(ParallelManager& model, const DataSource& source, int64_t rows,
                    double bytes_per_token, const std::function<void()>& before_batch = {},
                    bool hidden = false);

}  // namespace strata
