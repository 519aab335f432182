#include <ATen/TensorOperators.h>

#include "core/error.h"
#include "core/ops/linear.h"
#include "core/text.h"
#include "parallel/nn/linear_use.h"
#include "parallel/nn/module.h"
#include "parallel/nn/recompute.h"
#include "parallel/nn/structured_linear.h"

namespace strata {

Tensor LinearUse::apply(const Tensor& x, const Tensor& weight, const Tensor& bias_value) const {
  if (!layout) return ops::linear(x, weight, bias_value);
  if (x.size(-1) != features) {
    throw ConfigError(
        name, cat("an input of ", x.size(-1), " features"), cat(features),
        " (cut automatically as a reader of what an earlier linear of its region made. Where it "
        "reads the region's input declare .role = LinearRole::Entry; what lies between the two "
        "must keep the number of features)");
  }
  const Tensor in = own ? x.narrow(-1, own->begin, own->size()) : x;
  const bool inside = bias == Bias::Inside;
  Tensor y = ops::linear(in, weight, inside ? bias_value : Tensor());
  if (after == AfterLinear::Sum) y = TensorParallelOps(*layout).all_reduce(y);
  if (after == AfterLinear::Exit) y = complete_sum(y, *layout);
  if (bias == Bias::After && bias_value.defined()) y = y + bias_value.to(y.scalar_type());
  return y;
}

ops::AttentionDropout Region::attention_dropout(double prob, int64_t local_heads, int64_t heads,
                                                const Batch& batch) const {
  if (prob <= 0 || !batch.training) return {};
  return {.prob = prob,
          .seed = layout().seed(),
          .name = cat(full_name(), ".attention_dropout"),
          .step = static_cast<uint32_t>(batch.step),
          .first_row = batch.first_row,
          .first_head = local_heads == heads ? 0 : local_heads * layout().tp_index(),
          .total_heads = heads};
}

Tensor Region::operator()(const Tensor& x, const Batch& batch) {
  const bool declared = !split_ || layout().tp_size() == 1;
  const Tensor entered =
      declared || split_->cut ? region_enter(x, layout()) : identical_enter(x, layout());
  const bool again =
      layout().strategy().recompute == Recompute::Selective && recompute_selectively();
  Tensor y =
      again ? recomputed(entered, [this, batch](const Tensor& in) { return forward(in, batch); })
            : forward(entered, batch);
  if (!summed_)
    y = declared || split_->partial ? region_exit(y, layout()) : identical_exit(y, layout());
  for (const Tensor& bias : exit_biases_) y = y + bias.to(y.scalar_type());
  return y;
}

void Region::survey(Module& module, const std::string& prefix, Survey& out) {
  std::vector<bool> of_linear(module.parameters_.size(), false);
  for (size_t i = 0; i < module.linears_.size(); ++i) {
    const LinearRecord& record = module.linears_[i];
    of_linear[record.weight] = of_linear[record.bias] = of_linear[record.second] = true;
    out.linears.push_back({{.name = prefix + record.name,
                            .in = record.in,
                            .out = record.out,
                            .role = record.role,
                            .unit = record.asked.unit,
                            .segments = record.asked.segments,
                            .whole = record.asked.dim == ShardSpec::kReplicated},
                           &module,
                           i});
  }
  for (size_t i = 0; i < module.parameters_.size(); ++i) {
    const ParamMeta& meta = module.parameters_[i]->meta;
    out.declares_cut = out.declares_cut || meta.shard.cut();
    out.other_parameters = out.other_parameters || (meta.trainable && !of_linear[i]);
  }
  for (auto& [name, child] : module.children_) {
    survey(*child, name.empty() ? prefix : cat(prefix, name, "."), out);
  }
}

std::vector<const Region*> Module::regions() const {
  std::vector<const Region*> out;
  if (is_region()) out.push_back(static_cast<const Region*>(this));
  for (const auto& [name, child] : children_) {
    for (const Region* region : child->regions()) out.push_back(region);
  }
  return out;
}

Module::Place Region::enter(Place) {
  Survey found;
  survey(*this, "", found);
  nodes_.clear();
  for (const auto& linear : found.linears) nodes_.push_back(linear.node);
  if (found.declares_cut) {
    if (layout().tp_size() > 1) sum_between_factors(found);
    return Place::Region;
  }
  split_ = std::make_unique<const RegionSplit>(
      split_region(nodes_, found.other_parameters, layout().tp_size()));
  if (layout().tp_size() == 1) return Place::Region;
  if (!split_->cut) return Place::Identical;
  for (size_t i = 0; i < nodes_.size(); ++i) apply(found.linears[i], split_->linears[i]);
  return Place::Region;
}

// One dense row-cut linear leaves a partial sum of the output, which then holds for all of them.
void Region::sum_between_factors(const Survey& found) {
  std::vector<const Survey::Found*> row_cut;
  for (const Survey::Found& linear : found.linears) {
    const LinearRecord& record = linear.owner->linears_[linear.index];
    if (record.asked.dim != 1) continue;
    if (!record.structured || !record.structured->low_rank()) return;
    row_cut.push_back(&linear);
  }
  for (const Survey::Found* linear : row_cut) {
    const LinearRecord& record = linear->owner->linears_[linear->index];
    record.structured->sum_between_factors = true;
    linear->owner->after_exit_[record.weight] = true;
  }
  summed_ = !row_cut.empty();
}

void Region::apply(const Survey::Found& found, const LinearSplit& split) {
  Module& owner = *found.owner;
  const LinearRecord& record = owner.linears_[found.index];
  const bool has_bias = record.bias != record.weight;
  owner.identical_[record.weight] = owner.identical_[record.second] = split.identical;
  if (record.use) owner.parameters_[record.weight]->meta.shard = split.shard;
  if (has_bias) owner.identical_[record.bias] = split.identical;
  if (!record.use) return;  // declared replicated(), or structured
  LinearUse& use = *record.use;
  use.name = full_name().empty() ? found.node.name : cat(full_name(), ".", found.node.name);
  use.layout = layout();
  use.after = split.after;
  const int index = layout().tp_index(), count = layout().tp_size();
  use.features = record.in;
  if (split.takes_own) {
    use.own = owned_ranges(split_out(), {record.in}, index, count)[0];
  } else {
    use.features = local_shape(split.shard, {record.out, record.in}, index, count)[1];
  }
  if (!has_bias) return;
  Parameter& bias = *owner.parameters_[record.bias];
  if (split.cut == LinearCut::Column) bias.meta.shard = split.shard;
  if (split.cut != LinearCut::Row) return;
  if (split.after == AfterLinear::Nothing) {
    use.bias = LinearUse::Bias::Region;
    owner.after_exit_[record.bias] = true;
    exit_biases_.push_back(bias.value);
  } else {
    use.bias = LinearUse::Bias::After;
    if (split.after == AfterLinear::Exit) owner.identical_[record.bias] = true;
  }
}

}  // namespace strata
