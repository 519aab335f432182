#include "launch/evaluation.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <numbers>
#include <vector>

#include "core/error.h"
#include "launch/hidden_states.h"

namespace strata {
namespace evaluation_detail {

// Rows [begin, end) of the evaluation; those at `limit` and after carry no label.
Batch rows_with_limit(const DataSource& source, int64_t begin, int64_t end, int64_t limit) {
  const int64_t wanted = end - begin, real = std::clamp<int64_t>(limit - begin, 0, wanted);
  if (real == wanted) return source.rows(begin, end);
  Batch filler = source.rows(0, wanted - real);  // any rows will do
  filler.labels = at::full_like(filler.labels, kIgnoreLabel);
  if (real == 0) return filler;
  Batch batch = source.rows(begin, begin + real);
  for (auto member : {&Batch::tokens, &Batch::labels, &Batch::positions, &Batch::segments}) {
    if ((batch.*member).defined()) batch.*member = at::cat({batch.*member, filler.*member});
  }
  return batch;
}

}  // namespace evaluation_detail

EvalResult evaluate(ParallelManager& model, const DataSource& source, int64_t rows,
                    double bytes_per_token, const std::function<void()>& before_batch,
                    bool hidden) {
  const auto start = std::chrono::steady_clock::now();
  EvalResult out;
  out.rows = rows == 0 ? source.rows_per_epoch() : std::min(rows, source.rows_per_epoch());
  const Plan& plan = model.plan();
  StepLoss sum;
  HiddenStates inside(model, hidden);
  for (int64_t begin = 0; begin < out.rows; begin += plan.global_batch) {
    if (before_batch) before_batch();
    std::vector<Batch> microbatches;
    for (int64_t m = 0; m < plan.microbatches; ++m) {
      const Range range = model.rows_needed(m);
      microbatches.push_back(evaluation_detail::rows_with_limit(source, begin + range.begin,
                                                                begin + range.end, out.rows));
      microbatches.back().probe = &inside;
    }
    const StepLoss part = model.forward_only(microbatches);
    sum.loss_sum += part.loss_sum;
    sum.counted += part.counted;
    sum.correct += part.correct;
  }
  Tensor totals = at::zeros({3}, at::TensorOptions().dtype(at::kDouble));
  double* t = totals.mutable_data_ptr<double>();
  t[0] = sum.loss_sum;
  t[1] = static_cast<double>(sum.counted);
  t[2] = static_cast<double>(sum.correct);
  model.pool().job().all_reduce(totals, ReduceOp::Sum).wait_host();
  out.counted = static_cast<int64_t>(t[1]);
  if (out.counted > 0) {
    out.loss = t[0] / t[1];
    out.accuracy = t[2] / t[1];
  }
  if (bytes_per_token > 0) out.bits_per_byte = out.loss / std::numbers::ln2 / bytes_per_token;
  if (hidden) out.hidden = inside.norms();
  out.streams = inside.streams();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

}  // namespace strata
