#include "optim/optimizer_state.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <set>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace optimizer_state_detail {

std::string count_path(const UpdateItem& item) { return cat("/optim/", item.meta->name, "/t"); }

std::string state_path(const UpdateItem& item, const StateSlot& slot, const RuleSet& rules) {
  if (slot.of_weights) return cat("/optim/", item.meta->name, "/", slot.name);
  return cat("/optim/", item.meta->name, "/", rules.rule(item.rule).name(), "/",
             item.owned->matrix.index, "/", slot.name);
}

// Calls f(box, part of `values`) for everything in a tensor like the item's weights.
template <class F>
void for_weight_boxes(const UpdateItem& item, const Tensor& values, F&& f) {
  if (item.slice != nullptr) {
    for_boxes(*item.slice, values, f);
  } else {
    f(item.box, values.view(item.box.extent));
  }
}

}  // namespace optimizer_state_detail

using namespace optimizer_state_detail;

Piece UpdateItem::piece(const RuleSet& rules, double grad_scale, double lr, double decay) {
  return {.name = meta->name,
          .index = owned ? owned->matrix.index : 0,
          .weights = weights,
          .grad = grad,
          .rounded = rounded,
          .state = state,
          .grad_scale = grad_scale,
          .lr = lr * meta->lr_scale * rules.lr_ratio(rule),
          .decay = meta->weight_decay ? decay * rules.rule(rule).weight_decay() : 0,
          .whole = owned != nullptr && owned->shared()
                       ? Shape{owned->matrix.rows, owned->matrix.cols}
                       : Shape{},
          .cut = owned != nullptr ? owned->shared_dim : -1};
}

void UpdateItem::collect_own_gradient() {
  for (auto& [box, part] : own_grads) part_of(grad, box).copy_(part);
}

void UpdateItem::hand_back_own_values() {
  const Tensor& values = rounded.defined() ? rounded : weights;
  for (auto& [box, part] : own_values) part.copy_(part_of(values, box));
}

Tensor UpdateItem::part_of(const Tensor& values, const Box& part) const {
  return box_view(values.view(box.extent), part, box.offset);
}

Box UpdateItem::box_of(const StateSlot& slot) const {
  Box out = whole_box(slot.shape);
  if (owned != nullptr && owned->shared() && slot.cut_with == owned->shared_dim) {
    const auto dim = static_cast<size_t>(slot.cut_with);
    out.offset[dim] = box.offset[dim] - owned->matrix.box.offset[dim];
    out.extent[dim] = box.extent[dim];
  }
  return out;
}

OptimizerState::OptimizerState(ParallelManager& model, const RuleSet& rules)
    : model_(model), rules_(rules) {
  const at::NoGradGuard no_grad;
  for (const OwnedSlice& slice : model.owned_slices()) {
    slice_of_[slice.parameter] = &slice;
    const size_t rule = rules.choose(slice.parameter->meta).rule;
    if (rules.rule(rule).needs() == UpdateRule::Needs::Matrix) continue;
    companions_.push_back(slice);
    UpdateItem item{.meta = &slice.parameter->meta, .rule = rule};
    item.slice = &slice;
    item.grad = slice.grad;
    const at::ScalarType stored = slice.value.scalar_type(), wide = accumulate_dtype(stored);
    item.separate = stored != wide;
    item.weights = item.separate ? slice.value.to(wide) : slice.value;
    if (item.separate) item.rounded = slice.value;
    item.slots = rules.rule(rule).state_slots({slice.update.size()}, wide);
    slices_.push_back(std::move(item));
  }
  const std::vector<OwnedMatrix>& all = model.matrices().matrices;
  std::set<const Parameter*> planned;
  const int me = model.stage_ranks().rank();
  for (size_t i = 0; i < all.size(); ++i) {
    planned.insert(all[i].parameter);
    model_parts_.push_back(model_parts(all[i], me));
    if (all[i].owned_by(me)) add_matrix(all[i], i, rules.choose(all[i].parameter->meta).rule);
  }
  for (const OwnedSlice& slice : model.owned_slices()) {
    const size_t rule = rules.choose(slice.parameter->meta).rule;
    STRATA_CHECK(
        rules.rule(rule).needs() == UpdateRule::Needs::Slice || planned.count(slice.parameter) > 0,
        cat(slice.parameter->meta.name, ": the model was built without ",
            "DistributedOptimizer::prepare for the rule ", rules.rule(rule).name()));
  }
  for (auto* items : {&slices_, &matrices_}) {
    for (UpdateItem& item : *items) {
      for (const StateSlot& slot : item.slots) {
        const Shape here =
            slot.of_weights ? Shape(item.weights.sizes().vec()) : item.box_of(slot).extent;
        item.state.push_back(at::zeros(here, item.weights.options().dtype(slot.dtype)));
      }
    }
  }
}

void OptimizerState::add_matrix(const OwnedMatrix& matrix, size_t number, size_t rule) {
  UpdateItem item{.meta = &matrix.parameter->meta, .rule = rule};
  item.matrix = number;
  item.owned = &matrix;
  item.box = matrix.shared() ? model_parts_[number].at(0).box : matrix.matrix.box;
  const Shape shape =
      matrix.shared() ? item.box.extent : Shape{matrix.matrix.rows, matrix.matrix.cols};
  const at::ScalarType stored = matrix.parameter->value.scalar_type(),
                       wide = accumulate_dtype(stored);
  for (const ModelPart& part : model_parts_[number]) {
    item.own_values.emplace_back(part.box, part.value);
    item.own_grads.emplace_back(part.box, part.gradient);
  }
  const bool whole = item.own_values.size() == 1 && item.own_values[0].first == item.box &&
                     item.own_values[0].second.is_contiguous();
  if (whole) {
    const Tensor value = item.own_values[0].second.view(shape);
    item.grad = item.own_grads[0].second.view(shape);
    item.own_values.clear();
    item.own_grads.clear();
    item.separate = stored != wide;
    item.weights = item.separate ? value.to(wide) : value;
    if (item.separate) item.rounded = value;
  } else {
    const at::TensorOptions on = at::TensorOptions().device(matrix.parameter->value.device());
    item.separate = true;
    item.weights = at::zeros(shape, on.dtype(wide));
    item.grad = at::zeros(shape, on.dtype(wide));
    if (stored != wide) item.rounded = at::zeros(shape, on.dtype(stored));
  }
  item.slots = rules_.rule(rule).state_slots({matrix.matrix.rows, matrix.matrix.cols}, wide);
  owned_[number] = matrices_.size();
  matrices_.push_back(std::move(item));
}

UpdateItem* OptimizerState::owner_of(size_t matrix) {
  const auto at = owned_.find(matrix);
  return at == owned_.end() ? nullptr : &matrices_[at->second];
}

std::vector<OptimizerState::ModelPart> OptimizerState::model_parts(const OwnedMatrix& matrix,
                                                                   int rank) const {
  std::vector<ModelPart> out;
  for (const OwnedMatrix::Holder& holder : matrix.holders) {
    if (holder.rank != rank) continue;
    const OwnedSlice& slice = *slice_of_.at(matrix.parameter);
    const auto gradients = parts_of(matrix, holder, slice.grad),
               values = parts_of(matrix, holder, slice.value);
    for (size_t i = 0; i < values.size(); ++i)
      out.push_back({values[i].first, gradients[i].second, values[i].second});
  }
  return out;
}

Tensor OptimizerState::model_part(size_t matrix, const Box& box, bool gradient) const {
  for (const ModelPart& part : model_parts_.at(matrix)) {
    if (part.box == box) return gradient ? part.gradient : part.value;
  }
  const OwnedMatrix& m = model_.matrices().matrices[matrix];
  throw InternalError(
      cat(m.parameter->meta.name, ": this rank has no such part of matrix ", m.matrix.index));
}

void OptimizerState::for_tensors(const std::function<void(const OptimizerTensor&)>& f) const {
  for (const auto* items : {&slices_, &matrices_}) {
    for (const UpdateItem& item : *items) {
      const Shape& logical = item.meta->logical;
      for_weight_boxes(item, item.weights, [&](const Box& box, const Tensor& part) {
        f({"master", cat("/model/", item.meta->name), item.meta, logical, box, part,
           !item.separate});
      });
      for (size_t s = 0; s < item.slots.size(); ++s) {
        const StateSlot& slot = item.slots[s];
        const std::string path = state_path(item, slot, rules_);
        if (!slot.of_weights) {
          f({slot.name, path, item.meta, slot.shape, item.box_of(slot), item.state[s]});
          continue;
        }
        for_weight_boxes(item, item.state[s], [&](const Box& box, const Tensor& part) {
          f({slot.name, path, item.meta, logical, box, part});
        });
      }
      if (item.slots.empty() || item.updates < 0) continue;
      f({"t",
         count_path(item),
         item.meta,
         {1},
         whole_box({1}),
         at::full({1}, item.updates, at::TensorOptions().dtype(at::kLong))});
    }
  }
}

int64_t OptimizerState::bytes() const {
  int64_t total = 0;
  for (const auto* items : {&slices_, &matrices_}) {
    for (const UpdateItem& item : *items) {
      if (item.separate) total += item.weights.numel() * item.weights.element_size();
      for (const Tensor& s : item.state) total += s.numel() * s.element_size();
    }
  }
  return total;
}

void OptimizerState::load_masters(const WeightSource& source) {
  const at::NoGradGuard no_grad;
  for (UpdateItem& item : slices_) {
    if (!item.separate) continue;
    for_weight_boxes(item, item.weights, [&](const Box& box, Tensor part) {
      part.copy_(source.read(*item.slice->parameter, box, part.scalar_type()));
    });
  }
  for (UpdateItem& item : matrices_) {
    if (!item.separate) continue;
    for_weight_boxes(item, item.weights, [&](const Box& box, Tensor part) {
      part.copy_(source.read(*item.owned->parameter, box, part.scalar_type()));
    });
  }
}

// Weights of the model from wide values, then those that are apart from it.
void OptimizerState::read_model(
    const std::function<Tensor(const Parameter&, const Box&, at::ScalarType)>& read) {
  for (const auto& [parameter, slice] : slice_of_) {
    for_boxes(*slice, slice->value, [&](const Box& box, Tensor part) {
      part.copy_(read(*parameter, box, accumulate_dtype(part.scalar_type())));
    });
  }
  for (auto* items : {&slices_, &matrices_}) {
    for (UpdateItem& item : *items) {
      if (!item.separate) continue;
      const Parameter& p = item.slice ? *item.slice->parameter : *item.owned->parameter;
      for_weight_boxes(item, item.weights, [&](const Box& box, Tensor part) {
        part.copy_(read(p, box, part.scalar_type()));
      });
    }
  }
}

// Where some of it is not there in this shape, it begins anew.
void OptimizerState::read_state(UpdateItem& item, const CheckpointReader& in) {
  bool complete = true;
  for (const StateSlot& slot : item.slots) {
    const auto stored = in.tensors().find(state_path(item, slot, rules_));
    complete = complete && stored != in.tensors().end() &&
               stored->second.shape == (slot.of_weights ? item.meta->logical : slot.shape);
  }
  item.updates = complete ? -1 : 0;
  for (size_t s = 0; s < item.slots.size(); ++s) {
    const std::string path = state_path(item, item.slots[s], rules_);
    if (!complete) {
      item.state[s].zero_();
    } else if (!item.slots[s].of_weights) {
      item.state[s].copy_(in.read(path, item.box_of(item.slots[s])));
    } else {
      for_weight_boxes(item, item.state[s],
                       [&](const Box& box, Tensor part) { part.copy_(in.read(path, box)); });
    }
  }
  if (complete && in.contains(count_path(item)))
    item.updates = in.read_whole(count_path(item)).item<int64_t>();
}

std::vector<std::string> OptimizerState::missing(const CheckpointReader& in,
                                                 OptimizerReset reset) const {
  std::vector<std::string> out;
  for (const auto* items : {&slices_, &matrices_}) {
    if (reset == OptimizerReset::All || (reset == OptimizerReset::Matrix && items == &matrices_))
      continue;
    for (const UpdateItem& item : *items) {
      for (const StateSlot& slot : item.slots) {
        const std::string path = state_path(item, slot, rules_);
        if (!in.contains(path)) {
          out.push_back(path);
          continue;
        }
        const Shape& stored = in.tensors().at(path).shape;
        const Shape& wanted = slot.of_weights ? item.meta->logical : slot.shape;
        if (stored != wanted)
          out.push_back(
              cat(path, " of ", shape_text(wanted), " (it has ", shape_text(stored), ")"));
      }
    }
  }
  return out;
}

void OptimizerState::load(const CheckpointReader& in, OptimizerReset reset) {
  const at::NoGradGuard no_grad;
  const std::vector<std::string> lost = missing(in, reset);
  if (!lost.empty()) {
    throw CheckpointError(cat(
        "the checkpoint has no optimizer state ", lost[0],
        lost.size() > 1 ? cat(" and ", lost.size() - 1, " more") : "",
        "; it was written by another optimizer or with other settings of it. ckpt.reset_optim = ",
        "matrix begins the state of rules on matrices afresh, all that of every parameter"));
  }
  read_model([&](const Parameter& p, const Box& box, at::ScalarType) {
    return in.read(cat("/model/", p.meta.name), box);
  });
  for (auto* items : {&slices_, &matrices_}) {
    const bool afresh =
        reset == OptimizerReset::All || (reset == OptimizerReset::Matrix && items == &matrices_);
    for (UpdateItem& item : *items) {
      if (!afresh) {
        read_state(item, in);
        continue;
      }
      for (Tensor& state : item.state) state.zero_();
      item.updates = 0;
    }
  }
}

void OptimizerState::load_converted(const WeightSource& weights, const CheckpointReader& state) {
  const at::NoGradGuard no_grad;
  read_model([&](const Parameter& p, const Box& box, at::ScalarType dtype) {
    return weights.read(p, box, dtype);
  });
  for (auto* items : {&slices_, &matrices_}) {
    for (UpdateItem& item : *items) read_state(item, state);
  }
}

}  // namespace strata
