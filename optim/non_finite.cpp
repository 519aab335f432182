#include "optim/non_finite.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>
#include <vector>

#include "core/text.h"

namespace strata {

std::string NonFinite::text() const {
  if (gradients == 0) return loss ? "the loss is not finite" : "the gradient norm is not finite";
  const std::string and_loss = loss ? "the loss and " : "";
  if (gradients == 1) return cat(and_loss, "the gradient of ", first, " is not finite");
  return cat(and_loss, "the gradients of ", gradients, " of ", parameters,
             " parameters are not finite (first ", first, ", last ", last, ")");
}

NonFinite find_non_finite(ParallelManager& model, const StepLoss& loss) {
  std::vector<std::string> names;
  std::map<std::string, int64_t> numbers;
  for (const ParamMeta& meta : parameter_metas(model.spec())) {
    if (!meta.trainable) continue;
    numbers[meta.name] = static_cast<int64_t>(names.size());
    names.push_back(meta.name);
  }
  // One mark per parameter, and one for the loss.
  const auto count = static_cast<int64_t>(names.size());
  Tensor marks = at::zeros({count + 1}, at::TensorOptions().dtype(at::kLong));
  int64_t* mark = marks.mutable_data_ptr<int64_t>();
  for (const OwnedSlice& slice : model.owned_slices()) {
    if (!at::isfinite(slice.grad).all().item<bool>())
      mark[numbers.at(slice.parameter->meta.name)] = 1;
  }
  mark[count] = std::isfinite(loss.loss_sum) ? 0 : 1;
  model.pool().job().all_reduce(marks, ReduceOp::Max, {0, SiteOp::Norm}).wait_host();

  NonFinite out;
  out.loss = mark[count] != 0;
  out.parameters = count;
  for (int64_t i = 0; i < count; ++i) {
    if (mark[i] == 0) continue;
    if (out.gradients++ == 0) out.first = names[static_cast<size_t>(i)];
    out.last = names[static_cast<size_t>(i)];
  }
  return out;
}

}  // namespace strata
